//! The `picored` program: see [`picored::cli`].

fn main() -> std::process::ExitCode {
    picored::cli::main()
}
