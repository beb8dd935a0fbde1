//! What a handler's config comes to in one digest, so that nodes can see whether they would do the same.
//!
//! It covers what decides what a run writes and when it runs: `[handler.config]`, `on`, `apps`, `run_on`. Not where the
//! component lies (its own digest says more), nor tempo, nor grants, nor where secrets are read from: these may differ
//! between machines, and a handler that is refused something fails, but writes nothing else. Computed for each record
//! that a node writes of itself.

use ring::digest::{Context, SHA256};

use super::{Handler, Pattern};
use crate::digest::Digest;
use crate::event::EventKind;

impl Handler {
    /// SHA-256 of what decides what a run writes. However the file orders its lists, equal meanings are equal.
    pub fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        // Each text with its length and each list with its count: no two configs run into each other.
        let number = |context: &mut Context, count: usize| context.update(&(count as u64).to_be_bytes());
        let text = |context: &mut Context, text: &str| {
            number(context, text.len());
            context.update(text.as_bytes());
        };
        text(&mut context, self.run_on.as_str());
        for list in
            [sorted(self.on.iter().map(|kind| EventKind::as_str(*kind))), sorted(self.apps.iter().map(Pattern::as_str))]
        {
            number(&mut context, list.len());
            list.into_iter().for_each(|entry| text(&mut context, entry));
        }
        number(&mut context, self.config.len());
        for (key, value) in &self.config {
            text(&mut context, key);
            text(&mut context, value);
        }
        Digest::new(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

fn sorted<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut texts: Vec<_> = texts.collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Handler};

    /// The handler of a config with these lines in its section.
    fn handler(lines: &str) -> Handler {
        let text = format!(
            "[node]\nname = \"a\"\nbind = \"127.0.0.1:1\"\n[cluster]\nname = \"c\"\n[[handler]]\nname = \"dns\"\n{lines}"
        );
        Config::parse(&text).expect("a valid config").handlers.remove(0)
    }

    const BASE: &str = "source = \"builtin:a\"\n";

    #[test]
    fn what_a_run_writes_is_in_it() {
        let all = [
            "",
            "on = [\"app-up\", \"app-down\"]",
            "on = [\"app-up\"]",
            "apps = [\"www\"]",
            "apps = [\"www\", \"mail\"]",
            "apps = [\"www*\"]",
            "run_on = \"every\"",
            "run_on = \"subject\"",
            "[handler.config]\na = \"b\"",
            "[handler.config]\na = \"c\"",
            "[handler.config]\nab = \"\"",
            "[handler.config]\na = \"\"\nb = \"\"",
        ];
        let mut digests: Vec<_> = all.iter().map(|lines| handler(&format!("{BASE}{lines}")).digest()).collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), all.len());
    }

    #[test]
    fn what_changes_nothing_that_is_written_is_not() {
        let base = handler(&format!("{BASE}on = [\"app-up\", \"app-down\"]\napps = [\"a\", \"b\"]")).digest();
        for lines in [
            "source = \"file:/elsewhere.wasm\"\non = [\"app-*\"]\napps = [\"b\", \"a\"]",
            "source = \"builtin:a\"\non = [\"app-*\", \"app-up\"]\napps = [\"a\", \"b\"]\nreconcile_every = \"1m\"\ntimeout = \"1s\"",
            "source = \"builtin:a\"\non = [\"app-*\"]\napps = [\"a\", \"b\"]\n[[handler.http]]\nallow = \"https://api.example.org\"",
        ] {
            assert_eq!(handler(lines).digest(), base, "{lines}");
        }
    }
}
