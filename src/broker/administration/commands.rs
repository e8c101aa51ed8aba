//! The same steps as commands for the broker's own host, where no password is needed to be allowed.
//!
//! Passwords are never arguments, for everybody sees those: the commands read them from standard input.

use serde_json::{Map, Value, json};

use super::found::Found;
use super::plan::plan;
use super::step::{Action, Limited, NewPassword, exchange_body, limits_body};
use crate::config::Administration;
use crate::config::administration::Policy;

const HEAD: &str = "\
# For a new RabbitMQ node: save it on the broker's host and run it there with bash, as root or rabbitmq. It asks for a
# password per user. It ends at the first command that fails, and may be run again: a user that exists keeps its
# password. `px broker check` compares afterwards.
set -e -o pipefail
trap 'echo \"ended here, the rest is not done: $BASH_COMMAND\" >&2' ERR
# rabbitmqctl would read on where the next password stands.
exec 3<&0 </dev/null
ask() {
    IFS= read -rsp \"Password of $1: \" password <&3 && echo >&2 && printf '%s\\n' \"$password\"
}
add_user() { # NAME [PASSWORD], else it is read; where there is a -- too, rabbitmqctl of RabbitMQ 4.0 waits for ever
    local words=(\"$@\") said
    [[ $# = 1 && $1 != -* ]] || words=(-- \"$@\")
    said=$(rabbitmqctl add_user \"${words[@]}\" 2>&1) || case $said in
        *\"already exists\"*) printf '%s exists, and keeps its password\\n' \"$1\" >&2 ;;
        *) printf '%s\\n' \"$said\" >&2; return 1 ;;
    esac
}
not_done() { # the rest is, and the end is 1
    printf 'not done: %s\\n' \"$1\" >&2
    trap 'exit 1' EXIT
}
set_topic_permissions() { # of an exchange that a unit is yet to make, RabbitMQ 4.3 takes none
    local said
    said=$(rabbitmqctl set_topic_permissions \"$@\" 2>&1) || case $said in
        *\"Exchange \"*\" does not exist\"*)
            not_done \"set_topic_permissions $*: $said; run this again when it is there\" ;;
        *) printf '%s\\n' \"$said\" >&2; return 1 ;;
    esac
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

/// A script that makes a new node what the file wants. It needs no connection and holds no password.
pub fn script(wanted: &Administration) -> String {
    let plan = plan(wanted, &Found::new_node());
    let mut text = HEAD.to_string();
    let mut definitions = Map::new();
    for step in plan.all() {
        let definition = step.action.definition();
        if definition.is_none() && !definitions.is_empty() {
            text.push_str(&import(std::mem::take(&mut definitions)));
        }
        text.push_str(&format!("\n# {}\n", step.action.words()));
        for line in step.action.commands() {
            text.push_str(&line);
            text.push('\n');
        }
        // In as few as the order allows, for each takes seconds.
        if let Some((kind, definition)) = definition
            && let Value::Array(list) = definitions.entry(kind).or_insert(json!([]))
        {
            list.push(definition);
        }
    }
    if !definitions.is_empty() {
        text.push_str(&import(definitions));
    }
    for stuck in &plan.stuck {
        text.push_str(&format!("\nnot_done {}\n", quoted(stuck)));
    }
    text
}

fn import(definitions: Map<String, Value>) -> String {
    let definitions = quoted(&Value::Object(definitions).to_string());
    format!("definitions {definitions}\n")
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
            Action::SetTopicPermission { user, permission: may } => vec![words(&[
                "set_topic_permissions",
                "-p",
                &may.vhost,
                "--",
                user,
                &may.exchange,
                &may.write,
                &may.read,
            ])],
            Action::SetLimits { of, limits } => {
                let limits = limits_body(limits).to_string();
                vec![match of {
                    Limited::User(name) => ctl(&["set_user_limits", "--", name, &limits]),
                    Limited::Vhost(name) => ctl(&["set_vhost_limits", "-p", name, "--", &limits]),
                }]
            }
            // No command declares: they are imported.
            Action::Declare(_) | Action::Bind(_) => Vec::new(),
            Action::SetPolicy {
                policy,
                is_for_mirroring,
            } => policy_commands(policy, *is_for_mirroring),
        }
    }
}

impl Action {
    /// What has no command, to be imported: its kind, and itself.
    fn definition(&self) -> Option<(&'static str, Value)> {
        match self {
            Action::Declare(exchange) => {
                let mut definition = exchange_body(exchange);
                definition["name"] = exchange.name.as_str().into();
                definition["vhost"] = exchange.vhost.as_str().into();
                Some(("exchanges", definition))
            }
            Action::Bind(binding) => {
                let (kind, destination) = binding.to.parts();
                let definition = json!({
                    "source": binding.exchange, "vhost": binding.vhost, "destination": destination,
                    "destination_type": kind, "routing_key": binding.key, "arguments": binding.arguments,
                });
                Some(("bindings", definition))
            }
            _ => None,
        }
    }
}

fn policy_commands(policy: &Policy, is_for_mirroring: bool) -> Vec<String> {
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
    match is_for_mirroring {
        // Later brokers refuse it: their queues are quorum queues.
        true => vec![
            "version=$(rabbitmqctl version)".to_string(), // that it fails is seen here alone
            format!("case $version in [0-3].*) {command} ;; esac"),
        ],
        false => vec![command],
    }
}

fn password_commands(name: &str, is_new: bool, password: &NewPassword) -> Vec<String> {
    let asked = format!("ask {}", quoted(name));
    match (password, is_new) {
        (NewPassword::Set(_), true) => vec![format!("{asked} | add_user {}", quoted(name))],
        (NewPassword::Set(_), false) => vec![match name.starts_with('-') {
            true => format!("{asked} | {}", ctl(&["change_password", "--", name])),
            // From RabbitMQ 4.0 on it is read only where the name is the one argument.
            false => format!("{asked} | {}", ctl(&["change_password", name])),
        }],
        (NewPassword::None | NewPassword::Kept(..), true) => vec![
            // It must begin with one; while it has it, it may do nothing.
            format!("add_user {} \"$(head -c 24 /dev/urandom | base64)\"", quoted(name)),
            ctl(&["clear_password", "--", name]),
        ],
        (NewPassword::None, false) => vec![ctl(&["clear_password", "--", name])],
        (NewPassword::Kept(..), false) => Vec::new(),
    }
}

fn ctl(command: &[&str]) -> String {
    format!("rabbitmqctl {}", words(command))
}

fn words(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

/// One word for a shell, whatever is in it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
