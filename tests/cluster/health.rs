//! What the checks of an application lead to.

use serde_json::Value;

use crate::site::Site;
use crate::website::{Answer, Website};

#[tokio::test]
async fn an_application_that_accepts_and_hangs_goes_down_within_fall_checks() {
    const FALL: usize = 3;
    let site = Site::new();
    // Good at first, then it hangs for as many checks as may be needed and not one more.
    let hangs = 2..2 + FALL;
    let website = Website::start(move |n| if hangs.contains(&n) { Answer::Never } else { Answer::Good }).await;
    let more = format!("interval = \"200ms\"\ntimeout = \"1s\"\nrise = 2\nfall = {FALL}");
    let node = site.start(&site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", &more));
    let verdicts = node.logs("up, down and up", 3, |line| line["target"] == "picored::health").await;
    let states: Vec<_> = verdicts.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["up", "down", "up"]);
    assert_eq!(verdicts[1]["reason"], Value::from("timed out after 1s waiting for the response"));
    assert_eq!(website.swallowed(), FALL);
}
