//! Why a record is as it is: every node can say who said what, and who wrote it.

use serde_json::Value;

use crate::site::{Site, fixture};
use crate::wait::found;
use crate::website::Website;

const APP: &str = "interval = \"100ms\"\nrise = 1\nfall = 1";
const HANDLER: &str = "on = [\"app-*\", \"reconcile\"]";

#[tokio::test]
async fn every_node_tells_who_wrote_the_record_and_why_a_member_is_not_in_it() {
    let site = Site::new();
    let (mut nodes, mut websites, mut seed) = (Vec::new(), Vec::new(), None);
    for number in 1..=3 {
        let (website, is_well) = Website::switched().await;
        let mut setup = site.setup(&format!("n{number}"), "127.0.0.1:0");
        if let Some(seed) = seed {
            setup = setup.seed(seed);
        }
        let setup = setup.app(&website, &format!("192.0.2.{number}"), APP).handler("dns", &fixture("ok"), HANDLER);
        let node = site.start(&setup);
        seed = Some(node.address().await);
        nodes.push(node);
        websites.push((website, is_well));
    }
    let published = |why: &Value| -> Vec<String> {
        let members = why["members"].as_array().into_iter().flatten();
        members.filter(|it| it["published"] == true).map(|it| it["member"].as_str().unwrap().to_owned()).collect()
    };
    // While three come up one after another, the scope may move once more: then another has written the same.
    let all_tell = async |what: &str, expected: &[&str]| {
        let ask = async || {
            let mut writers = Vec::new();
            for node in &nodes {
                let why: Value = serde_json::from_str(&node.told(&["why", "www", "--json"]).await.1).ok()?;
                writers.push((why["receipts"][0]["node"].clone(), why["receipts"][0]["revision"].clone()));
                (published(&why) == expected).then_some(())?;
            }
            writers.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        };
        site.until(what, found(ask)).await;
    };
    all_tell("all three are published", &["n1", "n2", "n3"]).await;
    websites[1].1.store(false, std::sync::atomic::Ordering::SeqCst);
    all_tell("n2 is not", &["n1", "n3"]).await;
    let (code, text, _) = nodes[2].told(&["why", "n2"]).await;
    assert_eq!(code, Some(0));
    assert!(text.starts_with("www on n2 (192.0.2.2): not published; n2 says that its checks fail\n"), "{text}");
    assert!(text.contains("\ndns wrote www on n") && text.contains("app-down    www on n2"), "{text}");
    let (code, _, error) = nodes[0].told(&["why", "shop"]).await;
    let expected = "error: shop is no application and no node that n1 knows: there are www; n1, n2, n3\n";
    assert_eq!((code, error.as_str()), (Some(1), expected));
}
