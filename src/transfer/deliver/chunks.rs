//! A parcel's bytes, in order, read off the async threads and no faster than the unit may send.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::task::{JoinHandle, spawn_blocking};

use super::parcel::Parcel;
use crate::message::{Fault, ProductPath};
use crate::transfer::bandwidth::Bandwidth;
use crate::transfer::{Kind, TransferError, joined};

/// The most that is read at once. While one chunk is sent the next is read, so two are held.
const CHUNK: u64 = 256 << 10;

/// The bytes of one parcel, exactly [`Parcel::size`] of them. A file that has another size by the time its last byte is
/// read was not complete: that is a failure ([`is_spoilt_content`]), whether it has become shorter or longer.
#[derive(Debug)]
pub(in crate::transfer) struct Chunks {
    source: Option<Source>,
    ahead: Option<Reading>,
    bandwidth: Option<Arc<Bandwidth>>,
}

type Reading = JoinHandle<Result<(Source, Vec<u8>), TransferError>>;

#[derive(Debug)]
struct Source {
    file: File,
    shown: String,
    at: u64,
    size: u64,
    most: u64,
}

/// Whether the parcel's own file is to blame, in the middle of a transfer: nothing is wrong with the server.
pub(in crate::transfer) fn is_spoilt_content(err: &TransferError) -> bool {
    err.fault == Fault::Message && err.kind == Kind::Local
}

impl Chunks {
    /// Prepares; reads nothing.
    pub(in crate::transfer) fn new(
        parcel: &Parcel,
        bandwidth: Option<Arc<Bandwidth>>,
    ) -> Result<Chunks, TransferError> {
        let shown = ProductPath(parcel.name.clone()).to_string();
        let file = parcel.content.try_clone().map_err(|err| unreadable(&err, &shown))?;
        let share = bandwidth.as_ref().map_or(CHUNK, |limit| limit.share() as u64);
        let source = Source {
            file,
            shown,
            at: 0,
            size: parcel.size,
            most: share.min(CHUNK),
        };
        Ok(Chunks {
            source: Some(source),
            ahead: None,
            bandwidth,
        })
    }

    /// The next bytes, never empty; `None` after the last one. After an error there are no more.
    pub(in crate::transfer) async fn next(&mut self) -> Result<Option<Vec<u8>>, TransferError> {
        let reading = match (self.ahead.take(), self.source.take()) {
            (Some(reading), _) => reading,
            (None, Some(source)) => spawn_blocking(move || source.read()),
            (None, None) => return Ok(None),
        };
        let (source, bytes) = joined(reading).await?;
        if source.at < source.size {
            self.ahead = Some(spawn_blocking(move || source.read()));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.pay(bytes.len()).await;
        }
        Ok(Some(bytes))
    }
}

impl Source {
    fn read(mut self) -> Result<(Source, Vec<u8>), TransferError> {
        let wanted = usize::try_from((self.size - self.at).min(self.most)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; wanted];
        match self.file.read_exact_at(&mut bytes, self.at) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Err(self.changed()),
            Err(err) => return Err(unreadable(&err, &self.shown)),
        }
        self.at += wanted as u64;
        if self.at == self.size {
            let now = self.file.metadata().map_err(|err| unreadable(&err, &self.shown))?.len();
            if now != self.size {
                return Err(self.changed());
            }
        }
        Ok((self, bytes))
    }

    fn changed(&self) -> TransferError {
        changed(&self.shown, self.size)
    }
}

/// The file that is delivered no longer has the size that it had.
pub(super) fn changed(shown: &str, size: u64) -> TransferError {
    let what = format!("cannot deliver {shown}: it had {size} bytes and its size has changed since");
    TransferError::new(Fault::Message, Kind::Local, what)
}

/// What reads the product's own file is this host's.
pub(super) fn unreadable(err: &io::Error, shown: &str) -> TransferError {
    let cause = Errno::from_io_error(err).unwrap_or(Errno::IO);
    TransferError::new(Fault::Own, Kind::Local, format!("cannot read {shown} to deliver it")).caused_by(cause)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::*;

    fn parcel(bytes: &[u8], size: u64) -> Parcel {
        let mut content = tempfile::tempfile().unwrap();
        content.write_all(bytes).unwrap();
        Parcel {
            content,
            size,
            directory: Vec::new(),
            name: b"x".to_vec(),
            modified: None,
        }
    }

    async fn all(mut chunks: Chunks) -> Result<Vec<u8>, TransferError> {
        let mut got = Vec::new();
        while let Some(bytes) = chunks.next().await? {
            assert!(!bytes.is_empty() && bytes.len() as u64 <= CHUNK);
            got.extend(bytes);
        }
        assert_eq!(chunks.next().await?, None, "it stays at the end");
        Ok(got)
    }

    #[tokio::test]
    async fn bytes_come_in_order_and_again() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let parcel = parcel(&bytes, size);
            for _ in 0..2 {
                let got = all(Chunks::new(&parcel, None).unwrap()).await.unwrap();
                assert!(got == bytes, "{size}");
            }
        }
    }

    #[tokio::test]
    async fn a_file_of_another_size_is_a_failure_of_the_product() {
        for size in [0, 99, 101, CHUNK + 100] {
            let err = all(Chunks::new(&parcel(&[7; 100], size), None).unwrap())
                .await
                .unwrap_err();
            assert!(is_spoilt_content(&err), "{err:?}");
        }
    }

    #[tokio::test]
    async fn lanes_share_their_bandwidth() {
        let bandwidth = Arc::new(Bandwidth::new(10_000));
        let (one, other) = (parcel(&[1; 1000], 1000), parcel(&[2; 1000], 1000));
        let begun = Instant::now();
        let chunks = |parcel| Chunks::new(parcel, Some(bandwidth.clone())).unwrap();
        let (first, second) = tokio::join!(all(chunks(&one)), all(chunks(&other)));
        assert_eq!((first.unwrap().len(), second.unwrap().len()), (1000, 1000));
        // 2000 bytes at 10 kB a second, less the credit of the beginning.
        assert!(begun.elapsed() >= Duration::from_millis(140), "{:?}", begun.elapsed());
    }
}
