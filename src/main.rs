//! The `picored` program: see [`picored::cli`].

fn main() {}
