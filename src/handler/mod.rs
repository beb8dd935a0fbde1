//! To come.
pub mod compile {
    //! To come.

    /// The compiler's process.
    pub fn child_main() -> std::process::ExitCode {
        std::process::ExitCode::FAILURE
    }
}
