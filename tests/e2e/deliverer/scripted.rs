//! Programs of the site that change, name and deliver the products of a delivering sender.

use std::os::unix::fs::PermissionsExt;

use super::{PLAIN, UNIT, World, world};
use crate::support::TestSite;

/// A program of the site, in Python.
pub fn program(site: &TestSite, name: &str, body: &str) {
    let head = "#!/usr/bin/python3\nimport json, os, sys\n\ndef answer(**what):\n    print(json.dumps(what))\n\n\
                for line in sys.stdin:\n    asked = json.loads(line)\n";
    let path = format!("etc/scripts/{name}");
    let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
    site.write(&path, format!("{head}{body}"));
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(site.path(&path), mode).expect("mode");
}

#[test]
fn programs_drop_change_and_name_products() {
    let more = "fx_script = [\"{root}/etc/scripts/fx\"]\ndestfn_script = [\"{root}/etc/scripts/destfn\"]\n";
    let world = world(&format!("{PLAIN}{more}"));
    program(
        &world.site,
        "fx",
        r#"path = asked["path"]
directory, name = os.path.split(path)
if name.startswith("drop"):
    answer(path=path, result="drop")
elif name.startswith("change"):
    made = directory + "/made" + name
    with open(made, "w") as out:
        out.write("made of " + open(path).read())
    answer(path=path, result="replace", **{"with": made})
else:
    answer(path=path, result="keep")
"#,
    );
    program(
        &world.site,
        "destfn",
        r#"answer(name=asked["name"], result="replace", **{"with": asked["name"].upper()})"#,
    );
    let _unit = world.site.run_ready(UNIT);
    for name in ["drop:me", "change:a:b", "keep:it"] {
        world.drop(&format!("3/2026112112/{name}"), name);
    }
    world.wait_left(&[]);
    let arrived = world.arrived();
    let names: Vec<&str> = arrived.keys().map(String::as_str).collect();
    assert_eq!(names, ["KEEP", "MADECHANGE"]);
    assert_eq!(arrived["MADECHANGE"], b"made of change:a:b");
    world.site.wait_count(UNIT, "rejected", 1);
    world.site.wait_count(UNIT, "delivered", 2);
    assert!(
        world.says("[WARNING] FX script ignored the file : drop:me"),
        "{}",
        world.site.logs()
    );
}

#[test]
fn a_program_delivers_and_what_it_does_not_answer_for_stays() {
    let site = TestSite::with_site_file("");
    let more = "type = \"deliver\"\ndirectory = \"a/${RYYYY}\"\nsend_script = [\"{root}/etc/scripts/send\", \"x\"]\n";
    site.unit(UNIT, more);
    program(
        &site,
        "send",
        r#"if os.path.exists(os.environ["PX_SPOOL"] + "/closed"):
    sys.exit(75)
to = os.environ["PX_SPOOL"] + "/data/" + asked["directory"]
os.makedirs(to, exist_ok=True)
with open(to + "/" + asked["name"], "wb") as out:
    out.write(open(asked["path"], "rb").read())
assert sys.argv[1:] == ["x", "send_script"]
answer(path=asked["path"], result="delivered")
"#,
    );
    let world = World { site };
    world.site.write("closed", "");
    for n in 0..50 {
        world.drop(&format!("3/2026112112/p{n}:a:b:c:3::20261121120000"), format!("{n}"));
    }
    let _unit = world.site.run_ready(UNIT);
    world.site.wait_state(UNIT, "paused: ");
    assert!(
        world.site.state(UNIT).contains("ended with 75"),
        "{}",
        world.site.state(UNIT)
    );
    assert_eq!(world.left().len(), 50);
    std::fs::remove_file(world.site.path("closed")).expect("remove");
    world.wait_left(&[]);
    let arrived = world.arrived();
    assert_eq!(arrived.len(), 50);
    assert_eq!(arrived["a/2026/p7"], b"7");
    world.site.wait_count(UNIT, "delivered", 50);
    let said = world.site.said(UNIT);
    assert!(said.contains(" delivered to script:send/a/2026/p7 (lat="), "{said}");
    world.site.wait_state(UNIT, "running");
}
