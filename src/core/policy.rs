//! placeholder
/// A grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {}
