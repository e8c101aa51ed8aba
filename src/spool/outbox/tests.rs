use std::process::{Command, Stdio};

use super::*;

/// Tells the child process where its outbox is.
const CHILD: &str = "PX_TEST_OUTBOX_CHILD";

fn message(n: u64) -> (String, Envelope) {
    let mut envelope = Envelope {
        key: format!("exp.dd.notify.{n}"),
        content_type: Some("text/plain".into()),
        timestamp: Some(1_795_000_000),
        body: format!("http://h/{n}").into_bytes(),
        ..Envelope::default()
    };
    envelope.headers.insert("filename".into(), "a.b++c::".into());
    ("cmc".to_owned(), envelope)
}

fn open(path: &Path) -> Outbox {
    Outbox::open(path, Limits::default()).unwrap()
}

async fn ids(outbox: &Outbox) -> Vec<i64> {
    let taken = outbox.take(0, 10_000).await.unwrap();
    taken.iter().map(|posted| posted.id).collect()
}

#[tokio::test]
async fn messages_come_back_as_they_were_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox.db");
    let outbox = open(&path);
    let (exchange, mut odd) = message(0);
    odd.headers.insert("raw".into(), Value::Str(b"caf\xe9".to_vec()));
    odd.headers.insert("small".into(), Value::I8(-1));
    odd.headers.insert("whole".into(), Value::I64(7));
    odd.headers.insert("broken".into(), Value::F64(1.0));
    odd.headers.insert("truth".into(), Value::Bool(true));
    odd.headers.insert("none".into(), Value::Void);
    odd.headers
        .insert("list".into(), Value::Array(vec!["x".into(), Value::U32(9)]));
    odd.priority = Some(3);
    odd.body = vec![0, 255];
    outbox.append(vec![(exchange, odd.clone()), message(1)]).await.unwrap();
    outbox.append(vec![message(2)]).await.unwrap();
    drop(outbox);
    let outbox = open(&path);
    let taken = outbox.take(0, 2).await.unwrap();
    assert_eq!(taken[0].envelope, Ok(odd));
    assert_eq!(
        (&*taken[1].exchange, taken[1].envelope.clone().unwrap()),
        ("cmc", message(1).1)
    );
    let rest = outbox.take(taken[1].id, 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    outbox.remove(vec![taken[0].id, rest[0].id, 999]).await.unwrap();
    assert_eq!((ids(&outbox).await, outbox.len()), (vec![taken[1].id], 1));
    outbox.append(vec![message(3)]).await.unwrap();
    assert!(ids(&outbox).await[1] > rest[0].id, "a number is used once");
}

#[tokio::test]
async fn a_full_outbox_refuses_all_of_a_group_and_drops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        messages: 3,
        bytes: 1 << 20,
    };
    let outbox = Outbox::open(&dir.path().join("outbox.db"), limits).unwrap();
    outbox.append(vec![message(0), message(1)]).await.unwrap();
    let error = outbox.append(vec![message(2), message(3)]).await.unwrap_err();
    assert!(
        error.store_full && error.what.contains("the outbox is full (2 messages"),
        "{error}"
    );
    outbox.append(vec![message(4)]).await.unwrap();
    assert!(outbox.append(vec![message(5)]).await.unwrap_err().store_full);
    let first = ids(&outbox).await[0];
    outbox.remove(vec![first]).await.unwrap();
    let (exchange, mut large) = message(6);
    large.body = vec![0; 1 << 20];
    assert!(outbox.append(vec![(exchange, large)]).await.unwrap_err().store_full);
    outbox.append(vec![message(7)]).await.unwrap();
    assert_eq!(outbox.len(), 3);
}

#[tokio::test]
async fn callers_at_once_share_commits_and_keep_their_own_order() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(&dir.path().join("outbox.db"));
    let callers = (0..50).map(|caller| {
        let outbox = outbox.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                outbox.append(vec![message(caller * 1000 + n)]).await.unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let taken = outbox.take(0, 10_000).await.unwrap();
    let mut seen = vec![0; 50];
    for posted in &taken {
        let key = posted.envelope.as_ref().unwrap().key.clone();
        let number: usize = key.rsplit('.').next().unwrap().parse().unwrap();
        assert_eq!(seen[number / 1000], number % 1000);
        seen[number / 1000] += 1;
    }
    assert_eq!(taken.len(), 1000);
}

/// As an application does that posts in a transaction of its own.
#[tokio::test]
async fn rows_of_others_are_read_and_one_that_cannot_be_stops_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox.db");
    let outbox = open(&path);
    let other = Connection::open(&path).unwrap();
    let insert = "INSERT INTO outbox(exchange, routing_key, properties, body) VALUES";
    other
        .execute_batch(&format!(
            "INSERT INTO outbox(exchange, routing_key, body) VALUES ('x', 'a.b', 'plain');
             {insert} ('x', 'k', '{{\"headers\": {{\"n\": 5, \"filename\": \"f\"}}}}', x'00');
             {insert} ('x', 'k', 'no JSON', '');
             {insert} ('x', 'k', '{{\"Headers\": {{}}}}', '');
             {insert} ('x', 'k', '{{\"body\": []}}', '');
             {insert} ('x', 'k', '{{\"headers\": {{\"h\": {{\"I7\": 1}}}}}}', 5);"
        ))
        .unwrap();
    let taken = outbox.take(0, 100).await.unwrap();
    let plain = taken[0].envelope.clone().unwrap();
    assert_eq!((&*plain.key, &*plain.body), ("a.b", &b"plain"[..]));
    let headers = taken[1].envelope.clone().unwrap().headers;
    assert_eq!(
        (&headers["n"], headers["filename"].as_str()),
        (&Value::I64(5), Some("f"))
    );
    for posted in &taken[2..] {
        let why = posted.envelope.clone().unwrap_err();
        assert!(why.starts_with("its properties"), "{why}");
    }
    assert_eq!(taken.len(), 6);
    outbox
        .remove(taken.iter().map(|posted| posted.id).collect())
        .await
        .unwrap();
    assert!(outbox.is_empty());
}

#[tokio::test]
async fn the_file_shrinks_when_a_backlog_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox.db");
    let outbox = open(&path);
    let large = |n| {
        let (exchange, mut envelope) = message(n);
        envelope.body = vec![b'x'; 4000];
        (exchange, envelope)
    };
    outbox.append((0..4000).map(large).collect()).await.unwrap();
    let size = || ["", "-wal"].map(|end| std::fs::metadata(format!("{}{end}", path.display())).map_or(0, |m| m.len()));
    assert!(size().iter().sum::<u64>() > 16_000_000, "{:?}", size());
    let mut after = 0;
    loop {
        let taken = outbox.take(after, 500).await.unwrap();
        let Some(last) = taken.last() else { break };
        after = last.id;
        outbox
            .remove(taken.iter().map(|posted| posted.id).collect())
            .await
            .unwrap();
    }
    outbox.take(0, 1).await.unwrap(); // after the thread has shrunk it
    assert!(size().iter().sum::<u64>() < 2_000_000, "{:?}", size());
    outbox.append(vec![message(1)]).await.unwrap();
    assert!(ids(&outbox).await[0] > 4000, "numbers go on");
}

#[tokio::test]
async fn a_damaged_file_is_one_clear_error_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox.db");
    let rubbish = "not a database, but long enough to be looked at".repeat(50);
    std::fs::write(&path, &rubbish).unwrap();
    let error = Outbox::open(&path, Limits::default()).unwrap_err();
    assert!(
        error.what.contains("outbox.db") && error.what.contains("damaged"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), rubbish);
}

/// Every message that was promised is there after `kill -9`, and no group is there in part.
#[test]
fn what_was_promised_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox.db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut promised = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "spool::outbox::tests::child_that_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut lines = std::io::BufRead::lines(output).map_while(Result::ok);
        let wanted = 20 + round * 7;
        let mut told = lines
            .by_ref()
            .filter_map(|line| line.strip_prefix("promised ")?.parse::<u64>().ok());
        promised = told.by_ref().nth(wanted).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        promised = told.last().unwrap_or(promised);
        let outbox = open(&path);
        let taken = runtime.block_on(outbox.take(0, 100_000)).unwrap();
        assert!(
            taken.len() as u64 >= promised && taken.len().is_multiple_of(3),
            "{} of {promised}",
            taken.len()
        );
        assert_eq!(taken.len() as u64, outbox.len());
    }
    assert!(promised > 0);
}

#[test]
#[ignore = "the child process of what_was_promised_survives_kill_9"]
fn child_that_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outbox = open(Path::new(&path));
    loop {
        runtime.block_on(outbox.append((0..3).map(message).collect())).unwrap();
        println!("promised {}", outbox.len());
    }
}
