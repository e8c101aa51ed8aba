//! What the management API refuses or leaves unanswered, sorted by whose fault it is.

use std::error::Error;
use std::io;

use reqwest::StatusCode;
use rustix::io::Errno;

use crate::message::Fault;

/// Why a request has no result.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No answer, or one that broke off.
    Transport(reqwest::Error),
    /// An answer that says no, in the broker's words.
    Refused(StatusCode, String),
    /// An answer of more bytes than are taken.
    TooLarge(u64),
    /// An answer that is no JSON, or not the JSON that was asked for.
    NotUnderstood(serde_json::Error),
}

/// Whose fault it is, and what to tell the operator. `user` is the one who asked.
pub(super) fn classify(trouble: &Trouble, user: &str) -> (Fault, String) {
    match trouble {
        Trouble::Transport(error) => transport(error),
        Trouble::Refused(status, reason) => refused(*status, reason, user),
        Trouble::TooLarge(limit) => (Fault::Endpoint, format!("the answer has more than {limit} bytes")),
        Trouble::NotUnderstood(error) => {
            let advice = "the answer is not that of RabbitMQ's management API; does `management.url` name it?";
            (Fault::Endpoint, format!("{error}: {advice}"))
        }
    }
}

/// reqwest's errors are opaque, so the system's own code is looked for first.
fn transport(error: &reqwest::Error) -> (Fault, String) {
    let cause = causes(error).last().map(ToString::to_string).unwrap_or_default();
    let is_ours = causes(error)
        .filter_map(|at| at.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error))
        .map(Errno::from_raw_os_error)
        .any(|code| matches!(code, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS));
    if is_ours || error.is_builder() {
        (Fault::Own, cause)
    } else if error.is_timeout() {
        (Fault::Endpoint, "no answer in time".to_string())
    } else if causes(error).any(|at| at.to_string().contains("invalid peer certificate")) {
        let advice = "does `ca_file` name the CA of this broker?";
        (Fault::Own, format!("TLS: {cause}; {advice}"))
    } else if error.is_connect() {
        (Fault::Endpoint, format!("no connection: {cause}"))
    } else {
        // Reset, cut short, no HTTP, and what later versions of the library may invent.
        (Fault::Endpoint, format!("the answer broke off: {cause}"))
    }
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |&at| at.source())
}

fn refused(status: StatusCode, reason: &str, user: &str) -> (Fault, String) {
    let code = status.as_u16();
    let text = match (code, reason) {
        // The second is RabbitMQ 4's.
        (401, "Login failed" | "Not_Authorized") => {
            format!("user {user} or its password is refused ({code} {reason}); it needs the tag \"management\" too")
        }
        (401 | 403, "Not management user") => format!("user {user} needs the tag \"management\" ({code} {reason})"),
        (401 | 403, "Not monitor user") => format!("user {user} needs the tag \"monitoring\" ({code} {reason})"),
        (401 | 403, "Not policymaker") => format!("user {user} needs the tag \"policymaker\" ({code} {reason})"),
        (401 | 403, "Not administrator user") => {
            format!("user {user} needs the tag \"administrator\" ({code} {reason})")
        }
        (401 | 403, reason) => {
            format!("user {user} may not ({code} {reason}); it needs the tag \"management\" and rights in the vhost")
        }
        _ => format!("{code} {reason}"),
    };
    // A login or a right does not come by waiting, nor does what the API does not know; an unwell server recovers.
    let is_unwell = status.is_server_error() || matches!(code, 408 | 429);
    let fault = if is_unwell { Fault::Endpoint } else { Fault::Own };
    (fault, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_user_and_what_it_needs() {
        let table = [
            (401, "Login failed", Fault::Own, "user joe or its password is refused"),
            (401, "Not_Authorized", Fault::Own, "user joe or its password is refused"),
            (
                401,
                "Not management user",
                Fault::Own,
                "joe needs the tag \"management\"",
            ),
            (
                401,
                "Not administrator user",
                Fault::Own,
                "joe needs the tag \"administrator\"",
            ),
            (
                401,
                "User not authorised to access virtual host",
                Fault::Own,
                "joe may not (401",
            ),
            (403, "", Fault::Own, "rights in the vhost"),
            (400, "unknown policy", Fault::Own, "400 unknown policy"),
            (302, "", Fault::Own, "302"),
            (429, "", Fault::Endpoint, "429"),
            (500, "boom", Fault::Endpoint, "500 boom"),
            (503, "", Fault::Endpoint, "503"),
        ];
        for (code, reason, fault, said) in table {
            let trouble = Trouble::Refused(StatusCode::from_u16(code).unwrap(), reason.to_string());
            let (found, text) = classify(&trouble, "joe");
            assert_eq!(found, fault, "{code} {reason}");
            assert!(text.contains(said), "{code} {reason}: {text}");
        }
    }
}
