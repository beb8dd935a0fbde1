//! The handler's config: strings by key, as the operator wrote them under `[handler.config]`.
//!
//! A value that is missing or out of range is a permanent failure that names its key, since the next try would read
//! the same. Never keeps a value: each call asks the host.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::Failure;
use crate::bindings::wasi::config::store;

/// The value of `key`, if it is there. An empty one counts as absent.
pub fn optional(key: &str) -> Result<Option<String>, Failure> {
    match store::get(key) {
        Ok(value) => Ok(value.filter(|value| !value.is_empty())),
        Err(store::Error::Upstream(reason) | store::Error::Io(reason)) => {
            Err(Failure::Retry(format!("config key `{key}` could not be read: {reason}")))
        }
    }
}

/// The value of `key`, which must be there.
pub fn required(key: &str) -> Result<String, Failure> {
    optional(key)?
        .ok_or_else(|| Failure::Permanent(format!("config key `{key}` is missing: set it in the handler's config")))
}

/// The number under `key`, or `default` if there is none.
pub fn number(key: &str, default: u32, range: RangeInclusive<u32>) -> Result<u32, Failure> {
    optional(key)?.map_or(Ok(default), |value| number_in(key, &value, range))
}

/// The truth under `key`, if there is one.
pub fn boolean(key: &str) -> Result<Option<bool>, Failure> {
    optional(key)?.map(|value| truth_of(key, &value)).transpose()
}

/// A permanent failure about the value of `key`.
pub fn invalid(key: &str, problem: impl Display) -> Failure {
    Failure::Permanent(format!("config key `{key}`: {problem}"))
}

fn number_in(key: &str, value: &str, range: RangeInclusive<u32>) -> Result<u32, Failure> {
    value.trim().parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        invalid(key, format_args!("`{value}` is not a number from {} to {}", range.start(), range.end()))
    })
}

fn truth_of(key: &str, value: &str) -> Result<bool, Failure> {
    value.trim().parse().map_err(|_| invalid(key, format_args!("`{value}` is neither true nor false")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_range_is_taken() {
        assert_eq!(number_in("ttl", "1", 1..=86_400).unwrap(), 1);
        assert_eq!(number_in("ttl", " 86400 ", 1..=86_400).unwrap(), 86_400);
    }

    #[test]
    fn any_other_value_fails_for_good_and_names_key_value_and_range() {
        for value in ["0", "86401", "-1", "60s", "4294967297", "1.5"] {
            let Err(Failure::Permanent(reason)) = number_in("ttl", value, 1..=86_400) else { panic!("took {value}") };
            assert_eq!(reason, format!("config key `ttl`: `{value}` is not a number from 1 to 86400"));
        }
    }

    #[test]
    fn a_truth_is_one_of_two_words() {
        assert!(truth_of("proxied", "true").unwrap() && !truth_of("proxied", " false ").unwrap());
        let Err(Failure::Permanent(reason)) = truth_of("proxied", "yes") else { panic!("taken") };
        assert_eq!(reason, "config key `proxied`: `yes` is neither true nor false");
    }
}
