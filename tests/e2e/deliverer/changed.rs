//! Programs that replace products, and what becomes of a product while they run.

use std::time::{Duration, SystemTime};

use super::scripted::program;
use super::{LONG, PLAIN, UNIT, World, world};
use crate::support::TestSite;

/// Replaces a product by a file beside it, which it would leave as it is.
const CHANGE: &str = r#"path = asked["path"]
directory, name = os.path.split(path)
if name.startswith("made"):
    answer(path=path, result="keep")
else:
    made = directory + "/made" + name
    with open(made, "w") as out:
        out.write("made of " + open(path).read())
    answer(path=path, result="replace", **{"with": made})
"#;

/// Delivers as [`PLAIN`] does, but not while a file `closed` is there.
const SEND: &str = r#"if os.path.exists(os.environ["PX_SPOOL"] + "/closed"):
    sys.exit(75)
to = os.environ["PX_SPOOL"] + "/data/"
os.makedirs(to, exist_ok=True)
with open(to + asked["name"], "a") as out:
    out.write(open(asked["path"]).read())
answer(path=asked["path"], result="delivered")
"#;

fn scripted(more: &str) -> World {
    let site = TestSite::with_site_file("");
    let scripts =
        "type = \"deliver\"\nfx_script = [\"{root}/etc/scripts/fx\"]\nsend_script = [\"{root}/etc/scripts/send\"]\n";
    site.unit(UNIT, &format!("{scripts}{more}"));
    World { site }
}

/// More than one list, so that some are let go of when the first has failed.
#[test]
fn what_a_program_has_made_is_no_product_of_its_own_after_an_outage() {
    const COUNT: usize = 400;
    let world = scripted("batch = 1000\n");
    program(&world.site, "fx", CHANGE);
    program(&world.site, "send", SEND);
    world.site.write("closed", "");
    for n in 0..COUNT {
        world.drop(&format!("3/2026112112/p{n}:a:b:c:3::20261121120000"), format!("{n}"));
    }
    let _unit = world.site.run_ready(UNIT);
    world.site.wait_state(UNIT, "paused: ");
    std::fs::remove_file(world.site.path("closed")).expect("remove");
    world.wait_left(&[]);
    world.site.wait_state(UNIT, "running");
    let arrived = world.arrived();
    assert_eq!(arrived.len(), COUNT);
    for n in 0..COUNT {
        let body = &arrived[&format!("madep{n}")];
        assert!(
            body == format!("made of {n}").as_bytes(),
            "p{n}: {}",
            String::from_utf8_lossy(body)
        );
    }
    world.site.wait_count(UNIT, "delivered", COUNT as u64);
}

#[test]
fn a_version_that_a_program_has_not_seen_is_not_settled_by_its_answer() {
    let world = world(&format!("{PLAIN}fx_script = [\"{{root}}/etc/scripts/fx\"]\n"));
    program(
        &world.site,
        "fx",
        r#"import time
path, spool = asked["path"], os.environ["PX_SPOOL"]
name, body = os.path.basename(path), open(path).read()
open(spool + "/asked." + name, "w").close()
while not os.path.exists(spool + "/go"):
    time.sleep(0.01)
if body == "second":
    answer(path=path, result="keep")
elif name == "drop":
    answer(path=path, result="drop")
else:
    made = os.environ["PX_QUEUE"] + "/made/" + name
    os.makedirs(os.path.dirname(made), exist_ok=True)
    with open(made, "w") as out:
        out.write("made of " + body)
    answer(path=path, result="replace", **{"with": made})
"#,
    );
    let _unit = world.site.run_ready(UNIT);
    for name in ["drop", "change"] {
        let path = format!("3/2026112112/{name}");
        world.drop(&path, "first");
        let asked = world.site.path(&format!("asked.{name}"));
        world.site.wait_that_for(LONG, "it is asked about", || asked.exists());
        world.drop(&path, "second");
        world.site.write("go", "");
        world.wait_left(&[]);
        assert_eq!(world.arrived()[name], b"second", "{name}");
        std::fs::remove_file(world.site.path("go")).expect("remove");
    }
    assert_eq!(world.site.count(UNIT, "rejected"), 0);
}

/// A renamed file is all that is left of its product.
#[test]
fn a_program_may_rename_a_product() {
    let world = world(&format!("{PLAIN}fx_script = [\"{{root}}/etc/scripts/fx\"]\n"));
    program(
        &world.site,
        "fx",
        r#"path = asked["path"]
os.rename(path, path + "-renamed")
answer(path=path, result="replace", **{"with": path + "-renamed"})
"#,
    );
    let _unit = world.site.run_ready(UNIT);
    world.drop("3/2026112112/a", "a");
    world.wait_left(&[]);
    assert_eq!(world.arrived()["a-renamed"], b"a");
}

/// A program that always makes the same file: whatever is in hand of it goes out first.
#[test]
fn a_replacement_that_is_in_hand_is_refused_and_asked_for_again() {
    let more = "fx_script = [\"{root}/etc/scripts/fx\"]\nbatch = 1\nbandwidth = \"100kB\"\n";
    let world = world(&format!("{PLAIN}{more}"));
    program(
        &world.site,
        "fx",
        r#"made = os.environ["PX_QUEUE"] + "/made/out"
os.makedirs(os.path.dirname(made), exist_ok=True)
with open(made + ".new", "w") as out:
    out.write(open(asked["path"]).read())
os.rename(made + ".new", made)
answer(path=asked["path"], result="replace", **{"with": made})
"#,
    );
    for (name, letter) in [("a", b'a'), ("b", b'b')] {
        world.drop(&format!("3/2026112112/{name}"), vec![letter; 200_000]);
    }
    let _unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    assert!(world.arrived()["out"] == vec![b'b'; 200_000]);
    world.site.wait_count(UNIT, "delivered", 2);
    let said = world.site.said(UNIT);
    assert!(said.contains("made/out is in hand for another file"), "{said}");
    assert_eq!(world.site.count(UNIT, "failed"), 0);
}

#[test]
fn a_product_that_a_program_cannot_bear_holds_up_no_other() {
    let world = world(&format!("{PLAIN}fx_script = [\"{{root}}/etc/scripts/fx\"]\n"));
    let body = "if \"bad\" in asked[\"path\"]:\n    sys.exit(1)\nanswer(path=asked[\"path\"], result=\"keep\")\n";
    program(&world.site, "fx", body);
    for name in ["bad", "good1", "good2"] {
        world.drop(&format!("3/2026112112/{name}"), name);
    }
    let _unit = world.site.run_ready(UNIT);
    // Together, then after 5 s each alone.
    world.wait_left(&["3/2026112112/bad"]);
    let names: Vec<String> = world.arrived().into_keys().collect();
    assert_eq!(names, ["good1", "good2"]);
    assert_eq!(world.site.count(UNIT, "failed"), 0);
}

/// Told to end twice, px does not wait for it any more; what it has said it has delivered is settled.
#[test]
fn what_a_program_has_delivered_is_settled_when_px_is_told_to_end() {
    let world = scripted("");
    let keep = "answer(path=asked[\"path\"], result=\"keep\")\n";
    program(&world.site, "fx", keep);
    program(
        &world.site,
        "send",
        r#"import time
answer(path=asked["path"], result="delivered")
sys.stdout.flush()
open(os.environ["PX_SPOOL"] + "/sent", "w").close()
time.sleep(600)
"#,
    );
    for name in ["a", "b"] {
        world.drop(&format!("3/2026112112/{name}"), name);
    }
    let mut unit = world.site.run_ready(UNIT);
    let sent = world.site.path("sent");
    world.site.wait_that_for(LONG, "it is delivered", || sent.exists());
    // Not the same signal twice: two that wait are one.
    unit.signal(rustix::process::Signal::INT);
    unit.terminate();
    assert_eq!(world.left(), ["3/2026112112/b"]);
}

#[test]
fn two_products_of_one_name_arrive_one_after_the_other() {
    let world = world(&format!("{PLAIN}connections = 2\nbandwidth = \"400kB\"\n"));
    let bodies = [vec![b'a'; 300_000], vec![b'b'; 200_000]];
    for (n, body) in bodies.iter().enumerate() {
        world.drop(&format!("3/2026112112/x.gif:a:b:c:3::2026112112000{n}"), body);
    }
    world.drop(
        "3/2026112112/x.gif.tmp:a:b:c:3::20261121120002",
        "the temporary name of others",
    );
    let _unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    let arrived = world.arrived();
    assert!(arrived["x.gif"] == bodies[1], "{} bytes", arrived["x.gif"].len());
    assert_eq!(arrived["x.gif.tmp"], b"the temporary name of others");
    assert_eq!(world.told().len(), 3);
    assert_eq!(
        (world.site.count(UNIT, "parked"), world.site.count(UNIT, "failed")),
        (0, 0)
    );
}

#[test]
fn what_is_delivered_gets_the_time_of_the_queued_file_where_that_is_asked_for() {
    let world = world(&format!("{PLAIN}mtime = true\n"));
    let path = world.queued("3/2026112112/old");
    world.site.write("txq/dd/new.tmp", "x");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480);
    let file = std::fs::File::options()
        .write(true)
        .open(world.queued("new.tmp"))
        .expect("open");
    file.set_modified(time).expect("time");
    drop(file);
    std::fs::create_dir_all(path.parent().expect("an hour")).expect("hour");
    std::fs::rename(world.queued("new.tmp"), path).expect("rename");
    let _unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    let there = std::fs::metadata(world.site.path("data/old")).expect("there");
    assert_eq!(there.modified().expect("time"), time);
}
