//! `px reap` where it does not come to a broker: what is missing or wrong is said, and nothing is done.

use crate::Site;
use crate::support::free_port;

fn site(options: &str) -> Site {
    let site = Site::new();
    let text =
        "[brokers.b]\nurls = [\"amqp://u:p@127.0.0.1:1\"]\nmanagement = { url = \"http://u:p@127.0.0.1:PORT\" }\n";
    let text = text.replace("PORT", &free_port().to_string());
    site.write("px.toml", &format!("{text}{options}"));
    site
}

#[test]
fn without_a_reaper_in_px_toml_it_is_refused() {
    let said = site("").run(&["reap"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(
        said.err
            .ends_with("px.toml has no [reaper]: it says which queues are abandoned\n"),
        "{said:?}"
    );
}

#[test]
fn a_fault_anywhere_in_px_toml_deletes_nothing() {
    let said = site("[reaper]\nbroker = \"b\"\n[log]\nkeep = 0\n").run(&["reap", "--quiet"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("log.keep = 0"), "{said:?}");
    assert!(
        said.err
            .ends_with("px: nothing is deleted: what is abandoned is not known\n"),
        "{said:?}"
    );
}

#[test]
fn a_broker_that_does_not_answer_is_told_even_quietly() {
    let site = site("[reaper]\nbroker = \"b\"\n");
    for arguments in [&["reap", "--quiet"][..], &["reap", "--dry-run"]] {
        let said = site.run(arguments);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.starts_with("px: virtual host \"/\": "), "{said:?}");
    }
    let all = self::site("[reaper]\nbroker = \"b\"\nvhosts = \"all\"\n").run(&["reap", "--quiet"]);
    assert_eq!((all.code, all.out.as_str()), (1, ""));
    assert!(all.err.starts_with("px: cannot reap: "), "{all:?}");
}

#[test]
fn the_help_tells_the_exit_codes() {
    let help = Site::new().run_ok(&["reap", "--help"]);
    for code in ["0  done", "1  a queue or a virtual host failed", "2  usage"] {
        assert!(help.contains(code), "{help}");
    }
    assert_eq!(Site::new().run(&["reap", "everything"]).code, 2);
}
