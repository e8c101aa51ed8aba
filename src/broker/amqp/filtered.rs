//! The stream that the library reads and writes: the socket, or TLS on it, with a [`Filter`] on what is read.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, TokioRuntime};
use futures_util::{AsyncRead, AsyncWrite, Stream};
use lapin::tcp::AsyncTcpStream;

use super::frames::Filter;

/// While a frame is collected, what is read beside its rest is copied: no more than this.
const WHILE_HOLDING: usize = 16 << 10;
/// More room than this is not kept for later.
const READY_KEPT: usize = 64 << 10;

/// A stream as it comes from dialling.
pub(super) type Dialled = AsyncTcpStream<<TokioRuntime as Reactor>::TcpStream>;

/// A stream whose reader gets only what it can read.
pub(super) struct Filtered<S> {
    stream: S,
    filter: Filter,
    /// What the reader gets before anything else of the stream.
    ready: Vec<u8>,
    /// So much of it, it has got.
    given: usize,
}

impl<S> Filtered<S> {
    pub(super) fn new(stream: S, frame_max: u32) -> Self {
        Filtered {
            stream,
            filter: Filter::new(frame_max),
            ready: Vec::new(),
            given: 0,
        }
    }

    fn give(&mut self, buffer: &mut [u8]) -> usize {
        let left = &self.ready[self.given..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.given += count;
        if self.given == self.ready.len() {
            self.given = 0;
            self.ready.clear();
            self.ready.shrink_to(READY_KEPT);
        }
        count
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Filtered<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                return Poll::Ready(Ok(this.give(buffer)));
            }
            let room = match this.filter.is_holding() {
                true => buffer.len().min(WHILE_HOLDING),
                false => buffer.len(),
            };
            let count = ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer[..room]))?;
            let through = this.filter.read(&buffer[..count], &mut this.ready);
            // Nothing of a stream that has not ended is held for good: its frame comes whole, or it ends.
            if through > 0 || count == 0 {
                return Poll::Ready(Ok(through));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Filtered<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

/// The runtime for a connection on such a stream: the library takes only streams of its runtime's own type.
pub(super) fn runtime(plain: TokioRuntime) -> Runtime<RuntimeParts<TokioRuntime, Clock>> {
    Runtime::new(RuntimeParts::new(plain.clone(), Clock(plain)))
}

/// The runtime's timers. Streams are handed to the library ready-made, and it makes none.
#[derive(Debug, Clone)]
pub(super) struct Clock(TokioRuntime);

impl Reactor for Clock {
    type TcpStream = Filtered<Dialled>;
    type Sleep = <TokioRuntime as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Filtered<Dialled>, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::AsyncReadExt;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What comes from the other side, in its pieces, each later than the one before.
    struct Pieces(VecDeque<Vec<u8>>, bool);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            self.1 = !self.1;
            if self.1 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(mut piece) = self.0.pop_front() else {
                return Poll::Ready(Ok(0));
            };
            let count = piece.len().min(buffer.len());
            buffer[..count].copy_from_slice(&piece[..count]);
            if count < piece.len() {
                self.0.push_front(piece.split_off(count));
            }
            Poll::Ready(Ok(count))
        }
    }

    /// Frames of bodies, with content headers between them of which some cannot be read.
    fn stream() -> Vec<u8> {
        let frame = |kind: u8, payload: &[u8]| {
            let size = (payload.len() as u32).to_be_bytes();
            [&[kind, 0, 1][..], &size, payload, &[0xce]].concat()
        };
        let header = |text: &[u8]| {
            let fixed = [0u8, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0];
            frame(2, &[&fixed[..], &[text.len() as u8], text].concat())
        };
        let parts = [
            header(b"text"),
            frame(3, &[7; 40_000]),
            header(b"\xff"),
            header(b"\xfe"),
            frame(3, &[8; 30]),
            frame(8, b""),
        ];
        parts.concat()
    }

    proptest! {
        #[test]
        fn a_reader_gets_the_same_in_whatever_pieces(
            pieces in vec(1..50_000usize, 1..40),
            rooms in vec(1..50_000usize, 1..40),
        ) {
            let stream = stream();
            let mut wanted: Vec<u8> = Vec::new();
            let mut out = Vec::new();
            let through = Filter::new(4096).read(&stream, &mut out);
            wanted.extend(&stream[..through]);
            wanted.extend(out);

            let (mut rest, mut chunks) = (&stream[..], VecDeque::new());
            for size in pieces.iter().cycle() {
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                chunks.push_back(piece.to_vec());
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            let mut reader = Filtered::new(Pieces(chunks, false), 4096);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let mut read: Vec<u8> = Vec::new();
                for room in rooms.iter().cycle() {
                    let mut buffer = vec![0; *room];
                    match reader.read(&mut buffer).await.unwrap() {
                        0 => break,
                        count => read.extend(&buffer[..count]),
                    }
                }
                read
            });
            prop_assert!(read == wanted);
        }
    }
}
