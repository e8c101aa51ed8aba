//! What a program says on standard error becomes lines of the unit's log: some, none longer than a screen.
//!
//! `<3>`, `<4>`, `<6>` or `<7>` before a line is its level, as for systemd: error, warning, info, debug. Such a line is
//! logged as it is; one without a level as info, after the name of the hook.

use tracing::{debug, error, info, warn};

/// Of one line.
const LINE_MAX: usize = 1000;
/// Of one run.
const LINES_MAX: usize = 200;
/// Of the last line, in characters, where it says why a run went wrong.
const LAST_MAX: usize = 200;

/// The lines of one run. Control characters are escaped by the log.
pub(super) struct Log {
    hook: &'static str,
    line: Vec<u8>,
    is_cut: bool,
    lines: usize,
    last: String,
}

impl Log {
    pub(super) fn new(hook: &'static str) -> Self {
        Log {
            hook,
            line: Vec::new(),
            is_cut: false,
            lines: 0,
            last: String::new(),
        }
    }

    /// The beginning of the last line that is not empty and no mere detail.
    pub(super) fn last(&self) -> &str {
        &self.last
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_end) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let kept = text.len().min(LINE_MAX - self.line.len());
            self.line.extend_from_slice(&text[..kept]);
            self.is_cut |= kept < text.len();
            if is_end {
                self.end_line();
            }
        }
    }

    /// The run is over.
    pub(super) fn finish(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
        if self.lines > LINES_MAX {
            warn!("{}: {} more lines are not logged", self.hook, self.lines - LINES_MAX);
        }
    }

    fn end_line(&mut self) {
        let (line, is_cut) = (std::mem::take(&mut self.line), std::mem::take(&mut self.is_cut));
        self.lines += 1;
        let (level, text) = level_of(&line);
        let text = String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text));
        let cut = if is_cut { "…" } else { "" };
        if !text.trim().is_empty() && level != Some(7) {
            self.last = text.trim().chars().take(LAST_MAX).collect();
        }
        if self.lines > LINES_MAX {
            return;
        }
        match level {
            Some(0..=3) => error!("{text}{cut}"),
            Some(4) => warn!("{text}{cut}"),
            Some(5 | 6) => info!("{text}{cut}"),
            Some(_) => debug!("{text}{cut}"),
            None if text.is_empty() => {}
            None => info!("{}: {text}{cut}", self.hook),
        }
    }
}

/// `<4>text`
fn level_of(line: &[u8]) -> (Option<u8>, &[u8]) {
    match line {
        [b'<', digit @ b'0'..=b'7', b'>', text @ ..] => (Some(digit - b'0'), text),
        text => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_level_a_length_and_a_number() {
        assert_eq!(level_of(b"<4>careful"), (Some(4), &b"careful"[..]));
        for plain in [&b"<8>x"[..], b"<4 x", b"", b"4>x"] {
            assert_eq!(level_of(plain), (None, plain));
        }
        let mut log = Log::new("fx_script");
        for _ in 0..10_000 {
            log.take(&[b'x'; 700]);
            assert!(log.line.len() <= LINE_MAX);
        }
        assert!(log.is_cut);
        log.take(&b"\n".repeat(5000));
        log.finish();
        assert_eq!((log.lines, log.line.len()), (5000, 0));
        assert_eq!(log.last(), "x".repeat(LAST_MAX));
        log.take(b"<3>cannot reach it\r\n<7>a detail\n \n");
        assert_eq!(log.last(), "cannot reach it");
    }
}
