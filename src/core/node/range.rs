//! Ranges of names, in which views are compared.

use crate::name::NodeName;

/// From and to, both included; `None`: the end of all names.
pub(super) type Range = (Option<NodeName>, Option<NodeName>);

/// Whether the ranges leave no gap. Neighbours share a name.
pub(super) fn cover_everything(ranges: &[Range]) -> bool {
    let mut sorted: Vec<_> = ranges.iter().collect();
    sorted.sort();
    let mut reached: Option<&NodeName> = None;
    for (from, to) in sorted {
        match (from, reached, to) {
            (Some(from), Some(reached), _) if from > reached => return false,
            (Some(_), None, _) => return false,
            (_, _, None) => return true,
            (_, _, Some(to)) => reached = reached.max(Some(to)),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_everything_only_without_a_gap() {
        let range = |from: &str, to: &str| {
            let name = |text: &str| (!text.is_empty()).then(|| NodeName::new(text).expect("a name"));
            (name(from), name(to))
        };
        for ranges in [
            vec![range("", "")],
            vec![range("", "m"), range("m", "")],
            vec![range("m", ""), range("c", "m"), range("", "c")],
            vec![range("", "z"), range("b", "c"), range("y", "")],
        ] {
            assert!(cover_everything(&ranges), "{ranges:?}");
        }
        for ranges in [
            vec![],
            vec![range("a", "")],
            vec![range("", "a")],
            vec![range("", "b"), range("c", "")],
            vec![range("", "b"), range("b", "z")],
        ] {
            assert!(!cover_everything(&ranges), "{ranges:?}");
        }
    }
}
