//! `px`: arguments to [`px::cli`], and its verdict to the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    px::cli::main(std::env::args_os())
}
