//! `picored sim` from outside: its figures, for people and for programs, and what it says of a command line that is wrong.

use std::process::Output;

use serde_json::Value;

fn sim(args: &[&str]) -> Output {
    crate::command(&[&["sim"], args].concat()).output().unwrap()
}

fn figures(args: &[&str]) -> Value {
    let output = sim(&[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn one_seed_is_one_history_on_the_users_own_config() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/valid/sample.toml");
    let args = ["--config", config, "--loss", "10%", "--hours", "0.1", "--seed", "7"];
    let args = [&args[..], &["--kill", "1@30s..90s", "--partition", "2|3@150s..240s"]].concat();
    let first = figures(&args);
    assert_eq!(first, figures(&args));
    let number = |key: &str| first[key].as_f64().unwrap_or_else(|| panic!("{key} in {first}"));
    assert_eq!((number("seed"), number("nodes"), number("false_downs")), (7.0, 5.0, 0.0));
    // The config says wan.
    assert!(number("detect_p50_s") > 20.0 && number("detect_p99_s") < 60.0, "{first}");
    assert!(number("heal_max_s") > 0.0 && number("heal_max_s") < 60.0, "{first}");
    assert!(number("bytes_per_node_s") > 10.0 && number("packets_dropped") > 100.0, "{first}");
    assert_eq!((number("undetected"), number("unhealed")), (0.0, 0.0));
    let _ = number("wrong_removals");
}

#[test]
fn the_baseline_fails_where_it_is_known_to_and_the_text_says_how_to_see_it_again() {
    let output = sim(&["--loss", "10%", "--hours", "2", "--seed", "1", "--baseline", "foca"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains("false downs       0") && text.contains("until the first mistake:"), "{text}");
    assert!(text.contains("sim --loss 10% --hours 2 --seed 1 --baseline foca\n"), "{text}");
    assert_eq!(figures(&["--hours", "0.01", "--baseline", "foca"])["detect_p50_s"], Value::Null);
}

#[test]
fn what_cannot_be_simulated_is_told_with_a_remedy() {
    for (args, code, told) in [
        (&["--kill", "9@30s"][..], 1, "there is no node 9: --nodes is 5"),
        (&["--partition", "2|2@30s"], 1, "its groups have 4 in all, and --nodes is 5"),
        (&["--kill", "1@2h"], 1, "and all ends after 1h (--hours)"),
        (&["--kill", "1"], 2, "write when, such as 1@30s"),
        (&["--loss", "10"], 2, "write a percentage from 0% to 100%, such as 10%"),
        (&["--nodes", "0"], 2, "1..=1000"),
        (&["--config", "/nowhere/picored.toml"], 1, "cannot read the config /nowhere/picored.toml"),
    ] {
        let output = sim(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(told) && output.stdout.is_empty(), "{args:?}: {error}");
    }
}
