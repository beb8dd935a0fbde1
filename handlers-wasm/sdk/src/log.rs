//! The handler's log: lines that the host writes into its own, bounded in number and length.

use crate::bindings::wasi::logging::logging::{Level, log};

/// For one who looks for a fault.
pub fn debug(message: &str) {
    log(Level::Debug, "", message);
}

/// Worth knowing.
pub fn info(message: &str) {
    log(Level::Info, "", message);
}

/// Something is not as it should be, and the run goes on.
pub fn warn(message: &str) {
    log(Level::Warn, "", message);
}

/// Something is wrong. The reason for a failed run belongs into its [`Failure`](crate::Failure) instead.
pub fn error(message: &str) {
    log(Level::Error, "", message);
}
