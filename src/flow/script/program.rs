//! One run of a program: started without a shell in a process group of its own, fed and heard at the same time, ended
//! in time. Nothing of its group outlives it, and it does not outlive this process.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::said::Log;

/// Between being asked to end and being made to.
const GRACE: Duration = Duration::from_secs(5);
/// The same where its unit ends, which is not waited for much longer.
const GRACE_AT_END: Duration = Duration::from_millis(500);
/// For what is still in the pipes once a program has ended. Only who has left its group can keep them open.
const DRAIN: Duration = Duration::from_millis(500);
/// Of all answers of one run.
const ANSWERS_BYTES_MAX: usize = 64 << 20;
const BUFFER: usize = 16 << 10;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
    TimedOut,
    /// Its unit has ended.
    Stopped,
    /// It was ended, for its answers had no end.
    TooMuch,
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Ran {
    /// Its standard output.
    pub answers: Vec<u8>,
    pub end: End,
}

/// A process group, killed when this is dropped.
struct Group {
    /// Not reaped while `pid` is there, so that the number is nobody else's.
    child: Child,
    pid: Option<Pid>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // Nothing lost: all of it has ended already when this fails.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    async fn reap(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.pid = None;
        self.child.wait().await
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs a program with this on its standard input. Fails only where it cannot be started. Dropped, it kills the group.
///
/// To be called on a thread that lives as long as the process, as those of the runtime do: the kernel ends the program
/// with the thread that started it.
pub(super) async fn run(
    mut command: Command,
    input: &[u8],
    (limit, end): (Duration, &CancellationToken),
    log: &mut Log,
) -> io::Result<Ran> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    die_with_us(&mut command);
    let mut child = command.spawn()?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let mut group = Group { child, pid };
    let (Some(pid), (Some(stdin), Some(stdout), Some(stderr))) = (pid, pipes) else {
        return Err(io::Error::other("it has no process, or no pipes"));
    };
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    // SAFETY: the descriptor is owned by what it is registered in, and is never replaced or closed while it is.
    #[allow(unsafe_code)]
    let ended = unsafe { AsyncFd::register(pidfd)? };
    let mut answers = Vec::new();
    let why = {
        let talk = async { tokio::try_join!(feed(stdin, input), hear(stdout, &mut answers), log.hear(stderr)) };
        tokio::pin!(talk);
        let (mut deadline, mut why, mut is_talking) = (Instant::now() + limit, None, true);
        loop {
            tokio::select! {
                // An error is an end too: the wait below tells which.
                _ = ended.readable() => break,
                said = &mut talk, if is_talking => {
                    is_talking = false;
                    if said.is_err() {
                        why = Some(End::TooMuch);
                        group.signal(Signal::KILL);
                    }
                }
                () = end.cancelled(), if why.is_none() => {
                    deadline = Instant::now() + GRACE_AT_END;
                    group.signal(Signal::TERM);
                    why = Some(End::Stopped);
                }
                () = sleep_until(deadline) => {
                    deadline += GRACE;
                    group.signal(if why.is_none() { Signal::TERM } else { Signal::KILL });
                    why = why.or(Some(End::TimedOut));
                }
            }
        }
        // Whoever of its group has the pipes lets go of them.
        group.signal(Signal::KILL);
        if is_talking && let Ok(Err(TooMuch)) = timeout(DRAIN, &mut talk).await {
            why = Some(End::TooMuch);
        }
        why
    };
    let status = group.reap().await?;
    log.finish();
    Ok(Ran {
        answers,
        end: why.unwrap_or_else(|| end_of(status)),
    })
}

fn end_of(status: ExitStatus) -> End {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Code(code),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    }
}

/// The kernel kills the program when this process ends in whatever way. What the program has started is not told.
fn die_with_us(command: &mut Command) {
    let us = rustix::process::getpid();
    // SAFETY: between fork and exec only prctl(2) and getppid(2) are called, which are async-signal-safe; nothing is
    // allocated and no lock is taken.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have ended before it could be told.
            if rustix::process::getppid() != Some(us) {
                return Err(rustix::io::Errno::SRCH.into());
            }
            Ok(())
        });
    }
}

/// A program has said more than is kept.
struct TooMuch;

/// Writes everything. A program that ends, or does not read to the end, has its reasons.
async fn feed(mut stdin: ChildStdin, input: &[u8]) -> Result<(), TooMuch> {
    drop(stdin.write_all(input).await);
    Ok(())
}

async fn hear(mut from: impl AsyncRead + Unpin, answers: &mut Vec<u8>) -> Result<(), TooMuch> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await {
            // A pipe that cannot be read has no more to say.
            Ok(0) | Err(_) => return Ok(()),
            Ok(length) if answers.len() + length > ANSWERS_BYTES_MAX => return Err(TooMuch),
            Ok(length) => answers.extend_from_slice(&buffer[..length]),
        }
    }
}

impl Log {
    async fn hear(&mut self, mut from: impl AsyncRead + Unpin) -> Result<(), TooMuch> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(length) => self.take(&buffer[..length]),
            }
        }
    }
}
