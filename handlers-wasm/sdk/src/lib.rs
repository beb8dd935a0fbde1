//! What a handler in Rust needs: the types of the contract in `wit/handler.wit`, its config, its log, an HTTP client
//! whose errors are already failures, and the arithmetic of a DNS record ([`record`]).
//!
//! A handler implements [`Handler`] and names its type in [`export!`]. This crate holds no state and decides nothing
//! on its own: everything here happens because the handler calls it.

pub mod cluster;
pub mod config;
pub mod http;
pub mod log;
pub mod name;
pub mod record;

#[allow(missing_docs, unsafe_code, unreachable_pub, rust_2018_idioms, clippy::all)]
pub mod bindings {
    //! Generated from `wit/`, for what the rest of this crate has no nicer way into.
    wit_bindgen::generate!({
        path: "../../wit",
        world: "picored:handler/handler",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "picored_handler::bindings",
    });
}

/// Makes a type that implements [`Handler`] the component's export: `picored_handler::export!(MyHandler);`
pub use bindings::export;
pub use bindings::exports::picored::handler::guest::{
    Delay, Description, Event, Failure, Guest as Handler, Outcome, Want,
};

impl Outcome {
    /// The run changed the world outside; `text` says how, in one line.
    pub fn changed(text: impl Into<String>) -> Self {
        Self { changed: true, text: text.into(), attributes: Vec::new() }
    }

    /// The world outside was as it should be; `text` says how it is, in one line.
    pub fn unchanged(text: impl Into<String>) -> Self {
        Self { changed: false, text: text.into(), attributes: Vec::new() }
    }
}

impl Want {
    /// Asks for `value` of a kind that the contract lists, and tells the operator why.
    pub fn new(kind: &str, value: &str, reason: &str) -> Self {
        Self { kind: kind.to_string(), value: value.to_string(), reason: reason.to_string() }
    }
}

#[cfg(doctest)]
#[doc = include_str!("../../../docs/write-a-handler.md")]
struct Page;
