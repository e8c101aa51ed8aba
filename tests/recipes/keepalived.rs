//! keepalived takes the configuration; tests/cluster has the address moved by it.

use std::path::Path;
use std::process::Command;

use crate::support::{enter_own_network, recipe_with};

#[test]
fn keepalived_takes_the_configuration() {
    assert!(
        Path::new("/usr/sbin/keepalived").exists(),
        "keepalived is missing: run scripts/test, or apt-get install --no-install-recommends keepalived"
    );
    let directory = tempfile::tempdir().expect("directory");
    enter_own_network(&directory.path().join("hosts"), &["bunny-op"]);
    let made = Command::new("ip")
        .args(["link", "add", "eth0", "type", "veth", "peer", "name", "other"])
        .status()
        .expect("ip");
    assert!(made.success());
    let file = directory.path().join("keepalived.conf");
    let said = |text: &str| {
        std::fs::write(&file, text).expect("keepalived.conf");
        let output = Command::new("/usr/sbin/keepalived")
            .args(["-t", "-f"])
            .arg(&file)
            .output()
            .expect("keepalived");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    let px = format!("{} broker ping", crate::support::PX);
    let title = "/etc/keepalived/keepalived.conf";
    // Its check of a file kills itself where somebody else than root is to run scripts; when it works it does not.
    let text = recipe_with(
        title,
        &[
            ("/usr/bin/px broker ping", &px),
            ("script_user px", "script_user nobody"),
        ],
    );
    let as_nobody = said(&text);
    let text = text.replace("script_user nobody", "script_user root");
    let (code, told) = said(&text);
    let own = "(bunny-op) Ignoring track_interface eth0 since own interface";
    assert_eq!((code, told.trim()), (Some(5), own));
    // Mended in 2.3.
    assert!(
        [(None, String::new()), (code, told)].contains(&as_nobody),
        "{as_nobody:?}"
    );
    let lines = "    track_interface {\n        eth0\n    }\n";
    assert!(text.contains(lines), "{text}");
    assert_eq!(said(&text.replace(lines, "")), (Some(0), String::new()));
    // The line of the seed that names the address is none of keepalived's.
    let (code, told) = said(&format!("vip bunny-op 142.135.12.59 port 5672\n{text}"));
    assert!(code != Some(0) && told.contains("Unknown keyword 'vip'"), "{told}");
}
