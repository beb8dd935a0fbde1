//! What a handler in Rust needs: the types of the contract in `wit/handler.wit`, its config, an HTTP client whose
//! errors are already failures, and the arithmetic of a DNS record (`reconcile`).
//!
//! A handler implements [`Handler`] and names its type in [`export!`]. This crate holds no state and makes no decision
//! on its own: everything happens because the handler calls it.

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all)]
pub mod bindings {
    //! Generated from `wit/`; the rest of this crate is the nicer way in.
    wit_bindgen::generate!({
        path: "../../wit",
        world: "picored:handler/handler",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "picored_handler::bindings",
    });
}

pub use bindings::export;
pub use bindings::exports::picored::handler::guest::{
    Delay, Description, Event, Failure, Guest as Handler, Outcome, Want,
};
