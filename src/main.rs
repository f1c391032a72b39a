//! The `ringpost` program: everything it does is in the library's `admin` room.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringpost::admin::run(std::env::args_os())
}
