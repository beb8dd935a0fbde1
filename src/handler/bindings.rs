//! The Rust side of `wit/handler.wit`: what the host serves itself, and what a handler exports.
//!
//! The rest of WASI (clocks, randomness, streams, `wasi:http`) comes with the libraries that serve it. Generated; the
//! only unsafe code in it is that of the generator's traits.

#![allow(missing_docs, unreachable_pub, unsafe_code, clippy::all)]

wasmtime::component::bindgen!({
    path: "wit",
    inline: "
        package picored:host;

        world sandbox {
            import picored:handler/cluster@0.1.0;
            import picored:handler/http@0.1.0;
            import wasi:config/store@0.2.0-rc.1;
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:logging/logging@0.1.0-draft;
            export picored:handler/guest@0.1.0;
        }
    ",
    imports: {
        "picored:handler/http.fetch": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: { "wasi:keyvalue/store.bucket": crate::handler::keyvalue::Bucket },
});
