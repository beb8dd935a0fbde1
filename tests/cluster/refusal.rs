//! A daemon that cannot be: it ends at once, says why and what to do, and hurts nobody.

use std::net::SocketAddr;

use rustix::process::Signal;

use crate::node::{Ended, is_event};
use crate::site::Site;

/// What it says as it ends, the same on standard error and in the log.
fn complaint(ended: &Ended) -> &str {
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let text = ended.stderr.strip_prefix("error: ").unwrap().trim_end();
    let last = ended.lines.last().unwrap();
    assert_eq!((last["level"].as_str(), last["error"].as_str()), (Some("ERROR"), Some(text)));
    text
}

#[tokio::test]
async fn a_name_belongs_to_the_node_that_has_it() {
    let site = Site::new();
    let first = site.start(&site.setup("n1", "127.0.0.1:0"));
    let first_address = first.address().await;
    let second = site.start(&site.setup("n2", "127.0.0.1:0").seed(first_address));
    first.sees(&["n1", "n2"]).await;
    let members = second.sees(&["n1", "n2"]).await;

    // It may ask the holder of the name, or somebody else.
    let seeds: [SocketAddr; 2] = [first_address, second.address().await];
    for (at, seed) in seeds.into_iter().enumerate() {
        let mut twin = site.setup("n1", "127.0.0.1:0").seed(seed);
        twin.state_dir = site.path(&format!("twin{at}.state"));
        twin.socket = site.path(&format!("twin{at}.sock"));
        let twin = site.start(&twin);
        let twin_address = twin.address().await;
        let ended = twin.end().await;
        let error = complaint(&ended);
        for part in ["\"n1\"", &first_address.to_string(), &twin_address.to_string(), "node.name"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(!site.path(&format!("twin{at}.sock")).exists());
    }

    for node in [&first, &second] {
        assert_eq!(node.sees(&["n1", "n2"]).await, members);
    }
    second.signal(Signal::TERM);
    first.notices("member-left", "n2").await;
    let second = second.end().await;
    assert!(!second.lines.iter().any(|line| is_event(line, "member-down", "n1")), "{}", site.last_lines());
}

#[tokio::test]
async fn two_daemons_do_not_share() {
    let site = Site::new();
    let setup = site.setup("n1", "127.0.0.1:0");
    let first = site.start(&setup);
    let address = first.address().await;
    let pid = picored::admin::client::status(&setup.socket).await.unwrap().pid;

    let mut same_state = site.setup("n2", "127.0.0.1:0");
    same_state.state_dir = setup.state_dir.clone();
    let ended = site.start(&same_state).end().await;
    let error = complaint(&ended);
    for part in [setup.state_dir.to_str().unwrap(), &format!("process {pid}"), "stop that one", "of its own"] {
        assert!(error.contains(part), "{part} in {error}");
    }

    let ended = site.start(&site.setup("n3", address)).end().await;
    let error = complaint(&ended);
    for part in ["node.bind", &address.to_string(), "in use", "another port"] {
        assert!(error.contains(part), "{part} in {error}");
    }

    let mut same_socket = site.setup("n4", "127.0.0.1:0");
    same_socket.socket = setup.socket.clone();
    let ended = site.start(&same_socket).end().await;
    let error = complaint(&ended);
    for part in [setup.socket.to_str().unwrap(), "admin_socket of its own"] {
        assert!(error.contains(part), "{part} in {error}");
    }

    assert_eq!(first.sees(&["n1"]).await[0].address, address.to_string());
}
