//! What `picored sim` prints: the figures for people, with the command that gives them again, and for programs.

use std::time::Duration;

use picored_core::config::Spoken;
use picored_sim::{Report, Simulation, System};
use serde_json::{Value, json};

fn seconds(duration: Option<Duration>) -> Value {
    duration.map_or(Value::Null, |duration| json!((duration.as_secs_f64() * 1000.0).round() / 1000.0))
}

pub(super) fn as_json(system: System, length: Duration, report: &Report) -> Value {
    json!({
        "false_downs": report.false_downs(),
        "detect_p50_s": seconds(Report::quantile(&report.detections, 0.5)),
        "detect_p99_s": seconds(Report::quantile(&report.detections, 0.99)),
        "undetected": report.undetected,
        "heal_max_s": seconds(report.heals.last().copied()),
        "unhealed": report.unhealed,
        "wrong_removals": report.wrong_removals,
        "empty_records": report.empty_records,
        "writes": report.writes,
        "dead_published_max_s": seconds(Some(report.dead_published)),
        "renewals": report.renewals,
        "bytes_per_node_s": report.bytes_per_node_second().round(),
        "packets_offered": report.packets.offered,
        "packets_dropped": report.packets.dropped,
        "packets_delivered": report.packets.delivered,
        "nodes": report.nodes,
        "hours": length.as_secs_f64() / 3600.0,
        "baseline": (system == System::Foca).then_some("foca"),
        "seed": report.seed,
    })
}

pub(super) fn as_text(system: System, length: Duration, loss: f64, report: &Report, simulation: &Simulation) -> String {
    let of = |figures: &[Duration], share| Report::quantile(figures, share).unwrap_or_default().as_secs_f64();
    let program = if system == System::Foca { "foca" } else { "picored" };
    let mut lines = vec![
        format!("{} nodes of {program} for {}, {} % loss", report.nodes, Spoken(length), loss * 100.0),
        format!("false downs       {}", report.false_downs()),
        format!("wrong removals    {} in {} runs of handlers", report.wrong_removals, report.runs),
        format!(
            "records           changed {} times, a dead address in them for at most {:.1} s",
            report.writes,
            report.dead_published.as_secs_f64()
        ),
        format!("renewals          {}", report.renewals),
    ];
    if !report.detections.is_empty() || report.undetected > 0 {
        let (half, nearly_all) = (of(&report.detections, 0.5), of(&report.detections, 0.99));
        let (count, open) = (report.detections.len(), report.undetected);
        lines.push(format!(
            "detection         p50 {half:.1} s, p99 {nearly_all:.1} s, {count} verdicts, {open} outstanding"
        ));
    }
    if !report.heals.is_empty() || report.unhealed > 0 {
        let (longest, open) = (of(&report.heals, 1.0), report.unhealed);
        lines.push(format!(
            "healing           at most {longest:.1} s after {} splits, {open} unhealed",
            report.heals.len()
        ));
    }
    let packets = report.packets;
    lines.push(format!("bytes             {:.0} a node and second", report.bytes_per_node_second()));
    lines.push(format!(
        "datagrams         {} offered, {} dropped, {} delivered",
        packets.offered, packets.dropped, packets.delivered
    ));
    lines.push(format!("seed              {}", report.seed));
    if let Some(story) = simulation.first_mistake() {
        lines.push(format!("\nuntil the first mistake:\n{story}"));
        lines.push(format!("\nthe same again:\n{}", again(std::env::args(), report.seed)));
    }
    lines.join("\n") + "\n"
}

/// The command line with the seed, as a shell takes it.
fn again(args: impl Iterator<Item = String>, seed: u64) -> String {
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./%@,:".contains(c));
    let quoted = |text: String| if is_plain(&text) { text } else { format!("'{}'", text.replace('\'', "'\\''")) };
    let mut words: Vec<_> = args.map(quoted).collect();
    if !words.iter().any(|word| word == "--seed" || word.starts_with("--seed=")) {
        words.push(format!("--seed {seed}"));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_replay_can_be_pasted() {
        let words = |text: &[&str]| text.iter().map(ToString::to_string).collect::<Vec<_>>().into_iter();
        let split = again(words(&["picored", "sim", "--partition", "2|3@60s"]), 7);
        assert_eq!(split, "picored sim --partition '2|3@60s' --seed 7");
        assert_eq!(again(words(&["picored", "sim", "--seed=3"]), 3), "picored sim --seed=3");
        assert_eq!(again(words(&["sim", "it's"]), 1), "sim 'it'\\''s' --seed 1");
    }
}
