use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Places;
use crate::flow::State;

const LIMIT: Duration = Duration::from_secs(60);

/// A unit `tx/u` with its queue, and programs.
struct World {
    root: tempfile::TempDir,
    unit: Unit,
}

impl World {
    fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        let unit = Unit {
            name: "tx/u".parse().unwrap(),
            places: Places::under(root.path()),
            metrics: Arc::default(),
            state: State::default(),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
        };
        let world = World { root, unit };
        std::fs::create_dir_all(world.queue()).unwrap();
        world
    }

    fn queue(&self) -> PathBuf {
        self.unit.places.spool.join("txq/u")
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.queue().join(name);
        std::fs::write(&path, name).unwrap();
        path
    }

    /// `body` as a shell script, its words being the script's path alone.
    fn script(&self, hook: Hook, body: &str) -> Script {
        self.script_within(hook, body, LIMIT)
    }

    fn script_within(&self, hook: Hook, body: &str, limit: Duration) -> Script {
        let path = self.root.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        // Not the file itself: another test's fork may have it open for writing, and then it is busy.
        let words = vec!["/bin/sh".to_owned(), path.to_string_lossy().into_owned()];
        Script::new(words, hook, limit, &self.unit)
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.root.path().join(name)).unwrap_or_default()
    }
}

fn faults<T>(answers: &[Result<T, ScriptError>]) -> Vec<Option<Fault>> {
    answers
        .iter()
        .map(|answer| answer.as_ref().err().map(|error| error.fault))
        .collect()
}

#[tokio::test]
async fn the_end_of_a_program_says_whose_fault_a_missing_answer_is() {
    let world = World::new();
    let files = [world.file("answered"), world.file("not")];
    let answer = r#"read line; echo "${line%?}, \"result\": \"keep\"}""#;
    for (end, wanted) in [
        ("exit 0", Fault::Message),
        ("exit 75", Fault::Endpoint),
        ("exit 1", Fault::Message),
        ("exit 126", Fault::Own),
        ("no-such-program", Fault::Own),
        ("kill -9 $$", Fault::Endpoint),
    ] {
        let script = world.script(Hook::Fx, &format!("{answer}; {end}"));
        let answers = script.fx(&files).await;
        assert_eq!(answers[0], Ok(FxAnswer::Keep), "{end}");
        assert_eq!(answers[1].as_ref().unwrap_err().fault, wanted, "{end}: {answers:?}");
    }
    let missing = Script::new(vec!["/no/such".into()], Hook::Fx, LIMIT, &world.unit);
    assert_eq!(faults(&missing.fx(&files).await), [Some(Fault::Own); 2]);
}

/// A grandchild that ignores SIGTERM and holds all pipes, and a program that does the same: the group is gone in time.
#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_with_all_its_children() {
    let world = World::new();
    let body = "trap '' TERM; echo '{\"path\": \"x\"}'; (sh -c 'trap \"\" TERM; echo $$ > ../../child; sleep 600')";
    let script = world.script_within(Hook::Pull, body, Duration::from_millis(300));
    let (begun, (files, error)) = (Instant::now(), script.pull(false).await);
    assert_eq!(files, [PathBuf::from("x")]);
    let error = error.unwrap();
    assert_eq!(error.fault, Fault::Endpoint, "{error}");
    assert!(error.what.contains("did not end within 300ms"), "{error}");
    assert!((5..30).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_gone(&world, "child").await;
}

/// A delivered file is not delivered again because px was told to end meanwhile.
#[tokio::test]
async fn answers_that_were_given_count_when_the_unit_ends() {
    let world = World::new();
    let request = |name: &str| SendRequest {
        path: world.file(name),
        directory: Vec::new(),
        name: name.into(),
    };
    let requests = [request("a"), request("b")];
    let path = requests[0].path.display();
    let body = format!(
        "trap '' TERM; echo '{{\"path\": \"{path}\", \"result\": \"delivered\"}}'; touch ../../sent; sleep 600"
    );
    let end = CancellationToken::new();
    let script = world.script(Hook::Send, &body).with_end(end.clone());
    let begun = Instant::now();
    let sending = script.send(&requests);
    let ending = async {
        while !world.root.path().join("sent").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        end.cancel();
    };
    let (answers, ()) = tokio::join!(sending, ending);
    assert_eq!(faults(&answers), [None, Some(Fault::Endpoint)], "{answers:?}");
    assert!(begun.elapsed() < LIMIT / 2, "{:?}", begun.elapsed());
}

/// Its number is free again, or a zombie's that init has not reaped yet.
async fn assert_gone(world: &World, name: &str) {
    let pid = world.said(name).trim().to_owned();
    assert!(!pid.is_empty());
    let end = Instant::now() + Duration::from_secs(20);
    let lives = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.contains(") Z"),
        Err(_) => false,
    };
    while lives() {
        assert!(Instant::now() < end, "{pid} still runs");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn grandchildren_that_keep_the_pipes_open_hold_up_nothing() {
    let world = World::new();
    for (how, is_killed) in [("", true), ("setsid ", false)] {
        let body = format!(
            "{how}sh -c 'echo $$ > ../../child; exec sleep 600' & \
                            while [ ! -s ../../child ]; do :; done; echo '{{\"path\": \"a\"}}'"
        );
        let begun = Instant::now();
        let (files, error) = world.script(Hook::Pull, &body).pull(false).await;
        assert_eq!((files.len(), error), (1, None), "{how}");
        assert!(begun.elapsed() < Duration::from_secs(20));
        if is_killed {
            assert_gone(&world, "child").await;
        } else {
            let pid: i32 = world.said("child").trim().parse().unwrap();
            rustix::process::kill_process(Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
        }
        std::fs::remove_file(world.root.path().join("child")).unwrap();
    }
}

use rustix::process::Pid;

#[tokio::test]
async fn a_call_that_is_dropped_kills_the_program() {
    let world = World::new();
    let script = world.script(Hook::Pull, "sh -c 'echo $$ > ../../child; exec sleep 600'");
    {
        let pull = script.pull(false);
        tokio::pin!(pull);
        while world.said("child").is_empty() {
            let nothing = tokio::time::timeout(Duration::from_millis(20), &mut pull).await;
            assert!(nothing.is_err(), "{nothing:?}");
        }
    }
    assert_gone(&world, "child").await;
}

#[tokio::test]
async fn ten_thousand_files_go_there_and_back_whoever_reads_first() {
    let world = World::new();
    let files: Vec<PathBuf> = (0..10_000)
        .map(|n| world.queue().join(format!("{n}-{}", "n".repeat(100))))
        .collect();
    for body in [
        r#"sed 's/}$/,"result":"keep"}/'"#,
        r#"all=$(cat); echo "$all" | sed 's/}$/,"result":"drop"}/'"#,
    ] {
        let answers = world.script(Hook::Fx, body).fx(&files).await;
        assert_eq!(answers.len(), files.len());
        assert!(
            answers
                .iter()
                .all(|answer| matches!(answer, Ok(FxAnswer::Keep | FxAnswer::Drop)))
        );
    }
    // Who reads nothing has answered nothing.
    let answers = world.script(Hook::Fx, "exit 0").fx(&files).await;
    assert!(faults(&answers).iter().all(|fault| *fault == Some(Fault::Message)));
}

#[tokio::test]
async fn floods_are_bounded() {
    let world = World::new();
    let files = [world.file("a")];
    let noise = world.script(Hook::Fx, "yes 'a long complaint' | head -c 30000000 >&2; exit 3");
    assert_eq!(faults(&noise.fx(&files).await), [Some(Fault::Message)]);
    let (_, error) = world.script(Hook::Pull, "yes '{\"path\": \"a\"}'").pull(false).await;
    assert!(error.unwrap().what.contains("without end"));
}

#[tokio::test]
async fn a_replacement_must_be_a_file_of_the_queue_and_of_nobody_else() {
    let world = World::new();
    let (file, other) = (world.file("a"), world.file("other"));
    let new = world.file("new");
    std::os::unix::fs::symlink(&new, world.queue().join("link")).unwrap();
    std::fs::write(world.root.path().join("outside"), "x").unwrap();
    let queue = world.queue().display().to_string();
    for (with, wanted) in [
        (format!("{queue}/new"), None),
        (format!("{queue}/other"), Some("another file of the list")),
        (format!("{queue}/link"), Some("no regular file")),
        (format!("{queue}/missing"), Some("No such file")),
        (format!("{queue}/../../outside"), Some("not in the unit's queue")),
        (queue.clone(), Some("not in the unit's queue")),
        ("new".to_owned(), Some("not in the unit's queue")),
        ("/etc/passwd".to_owned(), Some("not in the unit's queue")),
        (file.display().to_string(), None),
    ] {
        let body =
            format!("read line; echo \"${{line%?}}, \\\"result\\\": \\\"replace\\\", \\\"with\\\": \\\"{with}\\\"}}\"");
        let answers = world.script(Hook::Fx, &body).fx(&[file.clone(), other.clone()]).await;
        match (&answers[0], wanted) {
            (Ok(FxAnswer::Replace(path)), None) => assert_eq!(*path, new),
            (Ok(FxAnswer::Keep), None) => assert_eq!(with, file.display().to_string()),
            (Err(error), Some(wanted)) => {
                assert!(
                    error.what.contains(wanted) && error.fault == Fault::Message,
                    "{with}: {error}"
                )
            }
            (answer, _) => panic!("{with}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn each_hook_has_its_answers() {
    let world = World::new();
    let names = [b"one".to_vec(), b"two".to_vec(), b"bad".to_vec(), b"none".to_vec()];
    let body = r#"cat > /dev/null
        echo '{"name": "one", "result": "keep"}'; echo '{"name": "two", "result": "replace", "with": "TWO"}'
        echo '{"name": "bad", "result": "replace", "with": "../x"}'"#;
    let named = world.script(Hook::Destfn, body).destfn(&names).await;
    assert_eq!((&named[0], &named[1]), (&Ok(b"one".to_vec()), &Ok(b"TWO".to_vec())));
    assert_eq!(faults(&named[2..]), [Some(Fault::Message); 2]);
    let files = [world.file("a"), world.file("b")];
    let body = r#"read line; echo "${line%?}, \"result\": \"ingest\"}"; echo '{"path": "/more", "result": "ingest"}'"#;
    let list = world.script(Hook::Lx, body).lx(&files).await;
    assert_eq!(
        (list.files, list.more),
        (vec![Ok(true), Ok(false)], vec![PathBuf::from("/more")])
    );
    let list = world.script(Hook::Lx, &format!("{body}; exit 75")).lx(&files).await;
    assert_eq!(faults(&list.files), [None, Some(Fault::Endpoint)]);
    let request = |path: &PathBuf| SendRequest {
        path: path.clone(),
        directory: b"/in".to_vec(),
        name: b"\xff".to_vec(),
    };
    let body = r#"read line; cat > /dev/null; echo "$line" > ../../line
        path=${line#*:}; path=${path%%,*}; echo "{\"path\": $path, \"result\": \"delivered\"}""#;
    let sent = world
        .script(Hook::Send, body)
        .send(&files.each_ref().map(request))
        .await;
    assert_eq!(faults(&sent), [None, Some(Fault::Message)]);
    let line: serde_json::Value = serde_json::from_str(&world.said("line")).unwrap();
    assert_eq!((&line["directory"], &line["name_hex"]), (&"/in".into(), &"ff".into()));
}

#[tokio::test]
async fn a_program_knows_its_unit_and_nothing_of_our_environment() {
    let world = World::new();
    let body = "env > ../../env; echo \"$*\" > ../../words; cat > ../../input; pwd > ../../cwd";
    let mut script = world.script(Hook::Pull, body);
    script = script.with_options(Some(Secret::new(r#"{"passwd":"hush"}"#)));
    assert_eq!(script.pull(true).await, (vec![], None));
    let environment = world.said("env");
    let names: std::collections::BTreeSet<&str> =
        environment.lines().filter_map(|line| line.split('=').next()).collect();
    let shell_adds = ["PWD", "OLDPWD", "SHLVL", "_"];
    let allowed = [
        "PX_HOOK",
        "PX_UNIT",
        "PX_NAME",
        "PX_QUEUE",
        "PX_SPOOL",
        "PX_ETC",
        "PX_SLEEPING",
    ];
    assert!(
        names
            .iter()
            .all(|n| ENVIRONMENT.contains(n) || allowed.contains(n) || shell_adds.contains(n)),
        "{names:?}"
    );
    assert!(allowed.iter().all(|name| names.contains(name)), "{names:?}");
    assert!(environment.contains("PX_UNIT=tx/u\n") && environment.contains("PX_SLEEPING=1\n"));
    assert_eq!(world.said("words"), "pull_script\n");
    assert_eq!(world.said("input"), "", "options are for those who ask");
    assert_eq!(world.said("cwd").trim(), world.queue().display().to_string());
    // The word after the program.
    script.words = vec!["/bin/sh".into(), "--options".into(), "-c".into(), body.into()];
    script.words = ["/usr/bin/env", "--options"].map(String::from).to_vec();
    assert_eq!(
        String::from_utf8(script.options_line()).unwrap(),
        "{\"options\":{\"passwd\":\"hush\"}}\n"
    );
    assert!(!format!("{script:?}").contains("hush"));
}
