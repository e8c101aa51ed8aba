//! `px`: arguments to [`px::cli`], and its verdict to the exit code.

use std::process::ExitCode;

/// lapin parses nested tables by recursion on a thread of its own. It gets no message that is nested deeply, but a hostile
/// server could overrun a usual stack with what it tells of itself, and end the process, again at each connect. 64 MiB are
/// enough for any table that fits a frame; only the pages that are used count.
const STACK_BYTES: &str = "67108864";

fn main() -> ExitCode {
    // SAFETY: nothing has started a thread yet, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var("RUST_MIN_STACK", STACK_BYTES) };
    px::cli::main(std::env::args_os())
}
