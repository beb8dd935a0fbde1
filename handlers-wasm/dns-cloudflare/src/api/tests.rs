//! Answers in Cloudflare's envelope, good and bad, and what follows from them.

use super::*;

fn taken(answer: &str) -> Result<(Vec<String>, Option<usize>), Failure> {
    read::<Vec<String>>(answer.as_bytes()).map(|(result, pages)| (result, pages.map(|pages| pages.total_count)))
}

#[test]
fn a_result_is_taken_out_of_its_envelope() {
    let answer =
        r#"{"result":["a"],"success":true,"errors":[],"messages":[],"result_info":{"total_count":7,"page":1}}"#;
    assert_eq!(taken(answer).unwrap(), (vec!["a".to_string()], Some(7)));
    let answer = r#"{"success":true,"errors":null,"messages":[],"result":[]}"#;
    assert_eq!(taken(answer).unwrap(), (Vec::new(), None));
}

#[test]
fn what_was_not_carried_out_is_tried_again_with_the_errors_told() {
    let answer = r#"{"success":false,"errors":[{"code":1,"message":"a"},{"code":2,"message":"b"}],"result":null}"#;
    let Err(Failure::Retry(reason)) = taken(answer) else { panic!("not retried") };
    assert_eq!(reason, "Cloudflare carried nothing out: a (code 1); b (code 2)");
}

#[test]
fn what_is_no_json_may_pass_and_what_is_not_understood_stays() {
    for answer in ["", "<html>", r#"{"success":true,"result":["#] {
        let Err(Failure::Retry(reason)) = taken(answer) else { panic!("{answer} failed for good") };
        assert!(reason.starts_with("the answer is no JSON: "), "{reason}");
    }
    for (answer, problem) in [
        (r#"{"success":true,"errors":[]}"#, "missing field `result`"),
        (r#"{"errors":[],"result":[]}"#, "missing field `success`"),
        (r#"{"success":true,"errors":[],"result":[],"result_info":{"page":1}}"#, "missing field `total_count`"),
    ] {
        let Err(Failure::Permanent(reason)) = taken(answer) else { panic!("{answer} is retried") };
        assert!(
            reason.starts_with("the answer is not as Cloudflare gives it: ") && reason.contains(problem),
            "{reason}"
        );
    }
}

#[test]
fn errors_are_told_with_their_codes_and_causes() {
    let answer = br#"{"success":false,"errors":[{"code":6003,"message":"Invalid request headers","error_chain":
        [{"code":6111,"message":"Invalid format for Authorization header"}]}],"messages":[],"result":null}"#;
    let text = "Invalid request headers (code 6003): Invalid format for Authorization header (code 6111)";
    assert_eq!(explain(answer), Some(Explained { text: text.to_string(), passing: false }));
    assert_eq!(explain(br#"{"success":false,"errors":[],"result":null}"#), None);
    assert_eq!(explain(b"<html>"), None);
}

#[test]
fn errors_about_what_has_changed_since_it_was_read_pass() {
    let passing = |codes: &[i64]| {
        let errors: Vec<_> = codes.iter().map(|code| format!(r#"{{"code":{code},"message":""}}"#)).collect();
        explain(format!(r#"{{"success":false,"errors":[{}]}}"#, errors.join(",")).as_bytes()).unwrap().passing
    };
    assert!(passing(&[81_058]) && passing(&[81_044, 81_057]));
    assert!(!passing(&[9005]) && !passing(&[81_058, 9005]));
}

#[test]
fn a_zones_id_is_looked_at_before_it_is_sent() {
    let id = "023e105f4ecef8ad9ca31a8372d0c353";
    assert_eq!(checked(id.to_string()).unwrap(), id);
    for id in ["example.org", "", "../../../user/tokens/verify/zones", "023e105f4ecef8ad9ca31a8372d0c35g"] {
        let Err(Failure::Permanent(reason)) = checked(id.to_string()) else { panic!("{id} taken") };
        assert_eq!(
            reason,
            format!("config key `zone_id`: `{id}` is not 32 hexadecimal digits: leave it out to use `zone`")
        );
    }
}

#[test]
fn a_zone_is_found_if_there_is_one_of_its_name() {
    let zone = |id: u32, name: &str| Zone { id: format!("{id:032x}"), name: name.to_string() };
    let found = only("example.org.", vec![zone(1, "sub.example.org"), zone(2, "Example.org")]);
    assert_eq!(found.unwrap(), format!("{:032x}", 2));
    for (found, problem) in [
        (vec![zone(1, "sub.example.org")], "the API token sees no zone `example.org.`"),
        (
            vec![zone(1, "example.org"), zone(2, "example.org")],
            "the API token sees several zones `example.org.`: set `zone_id`",
        ),
    ] {
        let Err(Failure::Permanent(reason)) = only("example.org.", found) else { panic!("found one") };
        assert_eq!(reason, format!("config key `zone`: {problem}"));
    }
}
