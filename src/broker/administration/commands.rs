//! The same steps as commands for the broker's own host, where no password is needed to be allowed.
//!
//! Passwords are never arguments, for everybody sees those: the commands read them from standard input.

use serde_json::{Value, json};

use super::found::Found;
use super::plan::plan;
use super::step::{Action, NewPassword, exchange_body};
use crate::config::Administration;

const HEAD: &str = "\
# For a new RabbitMQ node that has none of these yet: save it on the broker's host and run it there with bash, as root
# or rabbitmq. It asks for a password per user. What fails is said, the rest is done, and the exit code is 1; a user
# that exists keeps its password. `px broker check` compares afterwards.
set -o pipefail
failed=0
trap 'failed=1' ERR
# rabbitmqctl would read on where the next password stands.
exec 3<&0 </dev/null
ask() {
    IFS= read -rsp \"Password of $1: \" password <&3 && echo >&2 && printf '%s\\n' \"$password\"
}
# From a file that its user may read: rabbitmqctl of RabbitMQ 4.0 waits for ever where it is to read standard input.
definitions() {
    local file code=0
    file=$(mktemp) && chmod 644 \"$file\" && printf '%s\\n' \"$1\" >\"$file\" || return 1
    rabbitmqctl import_definitions \"$file\" || code=$?
    rm -f \"$file\"
    return $code
}
";
const TAIL: &str = "\nexit $failed\n";

/// A script that makes a new node what the file wants. It needs no connection and holds no password.
pub fn script(wanted: &Administration) -> String {
    let plan = plan(wanted, &Found::new_node());
    let mut text = HEAD.to_string();
    for step in plan.all() {
        text.push_str(&format!("\n# {}\n", step.action.words()));
        for line in step.action.commands() {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text.push_str(TAIL);
    text
}

impl Action {
    /// Lines for bash, each one command; `ask NAME` prints the password of that user.
    pub fn commands(&self) -> Vec<String> {
        match self {
            Action::AddVhost(vhost) => vec![ctl(&["add_vhost", "--", vhost])],
            Action::PutUser {
                name,
                is_new,
                password,
                tags,
                has_new_tags,
            } => {
                let mut lines = password_commands(name, *is_new, password);
                if *has_new_tags {
                    let tags = tags.iter().map(String::as_str);
                    let words: Vec<&str> = ["set_user_tags", "--", name].into_iter().chain(tags).collect();
                    lines.push(ctl(&words));
                }
                lines
            }
            Action::DeleteUser(name) => vec![ctl(&["delete_user", "--", name])],
            Action::SetPermission { user, permission: may } => vec![ctl(&[
                "set_permissions",
                "-p",
                &may.vhost,
                "--",
                user,
                &may.configure,
                &may.write,
                &may.read,
            ])],
            Action::ClearPermission { user, vhost } => vec![ctl(&["clear_permissions", "-p", vhost, "--", user])],
            Action::Declare(exchange) => {
                let mut definition = exchange_body(exchange);
                definition["name"] = exchange.name.as_str().into();
                definition["vhost"] = exchange.vhost.as_str().into();
                let definitions = json!({ "exchanges": [definition] }).to_string();
                vec![format!("definitions {}", quoted(&definitions))]
            }
            Action::SetPolicy {
                policy,
                is_for_mirroring,
            } => {
                let command = ctl(&[
                    "set_policy",
                    "-p",
                    &policy.vhost,
                    "--apply-to",
                    policy.apply_to,
                    "--priority",
                    &policy.priority.to_string(),
                    "--",
                    &policy.name,
                    &policy.pattern,
                    &Value::Object(policy.definition.clone()).to_string(),
                ]);
                vec![match is_for_mirroring {
                    // Later brokers refuse it: their queues are quorum queues.
                    true => format!("case $(rabbitmqctl version) in [0-3].*) {command} ;; esac"),
                    false => command,
                }]
            }
        }
    }
}

fn password_commands(name: &str, is_new: bool, password: &NewPassword) -> Vec<String> {
    let asked = format!("ask {}", quoted(name));
    // From RabbitMQ 4.0 on rabbitmqctl reads a password only where the name is the one argument.
    let reading = |command: &str| match name.starts_with('-') {
        true => format!("{asked} | {}", ctl(&[command, "--", name])),
        false => format!("{asked} | {}", ctl(&[command, name])),
    };
    match (password, is_new) {
        (NewPassword::Set(_), true) => vec![reading("add_user")],
        (NewPassword::Set(_), false) => vec![reading("change_password")],
        (NewPassword::None | NewPassword::Kept(..), true) => vec![
            // It must begin with one; while it has it, it may do nothing.
            format!(
                "{} \"$(head -c 24 /dev/urandom | base64)\"",
                ctl(&["add_user", "--", name])
            ),
            ctl(&["clear_password", "--", name]),
        ],
        (NewPassword::None, false) => vec![ctl(&["clear_password", "--", name])],
        (NewPassword::Kept(..), false) => Vec::new(),
    }
}

fn ctl(words: &[&str]) -> String {
    let words = words.iter().map(|word| quoted(word));
    std::iter::once("rabbitmqctl".to_string())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

/// One word for a shell, whatever is in it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
