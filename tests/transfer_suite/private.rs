//! A test that needs a process of its own: other limits, mounts, environment, or a tracer.

use std::process::Command;

const INSIDE: &str = "PX_TEST_INSIDE";

/// True inside the private process, where the test goes on. Outside it runs `wrapper TEST` with `env`, asserts that it
/// passed, prints what it said, and answers false. `test` is the path of the calling test.
pub fn is_private(test: &str, wrapper: &[&str], env: &[(&str, &str)]) -> bool {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return true;
    }
    let this = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(&this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&this);
            command
        }
    };
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test);
    command.envs(env.iter().copied());
    let output = command
        .output()
        .unwrap_or_else(|err| panic!("cannot run {wrapper:?}: {err}; is it installed?"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test} in private:\n{text}"
    );
    print!("{text}");
    false
}

/// What makes private mounts possible for this user.
pub fn unshare() -> [&'static str; 2] {
    let is_root = rustix::process::geteuid().is_root();
    ["unshare", if is_root { "-m" } else { "-rm" }]
}
