//! lapin's errors, sorted by whose fault they are.

use crate::broker::BrokerError;
use crate::message::Fault;

/// Whose fault an error is, going by its kind and, where the broker answered, its reply code.
pub(super) fn classify(error: &lapin::Error) -> Fault {
    use lapin::ErrorKind::*;
    match error.kind() {
        ChannelsLimitReached => Fault::Own,
        InvalidProtocolVersion(_) => Fault::Own,
        InvalidChannel(_) => Fault::Endpoint,
        InvalidChannelState(..) => Fault::Endpoint,
        InvalidConnectionState(_) => Fault::Endpoint,
        IOError(error) => classify_io(error),
        RuntimeShutdownError(_) => Fault::Endpoint,
        ParsingError(_) => Fault::Endpoint,
        ProtocolError(answer) => classify_reply(answer.get_id(), answer.get_message().as_str()),
        SerialisationError(_) => Fault::Message,
        AuthProviderError(_) => Fault::Own,
        FutureCompleted => Fault::Endpoint,
        NoDefaultRuntime => Fault::Own,
        MissingHeartbeatError => Fault::Endpoint,
        _ => {
            tracing::warn!(%error, "unknown kind of error from the AMQP library");
            Fault::Endpoint
        }
    }
}

/// Out of descriptors, memory or buffers is our own trouble; whatever else a socket says is the other side's.
pub(super) fn classify_io(error: &std::io::Error) -> Fault {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => Fault::Own,
        _ => Fault::Endpoint,
    }
}

/// Whose fault a reply code is. Some codes mean two things; RabbitMQ's text tells them apart.
fn classify_reply(code: u16, text: &str) -> Fault {
    match code {
        311 => Fault::Message,
        // Somebody else consumes exclusively: that ends. A permission does not come by waiting.
        403 if text.contains("in exclusive use") => Fault::Endpoint,
        // The queue's node is down: it comes back with the node.
        404 if text.contains("is down or inaccessible") => Fault::Endpoint,
        // A limit on connections or channels: others may go.
        530 if text.contains("limit") => Fault::Endpoint,
        541 if says_deprecated(text) => Fault::Own,
        402 | 403 | 404 | 530 | 540 => Fault::Own,
        // 312, 313, 320, 405, 406, 501..=506, 541, and what a later broker may invent.
        _ => Fault::Endpoint,
    }
}

/// RabbitMQ 4 refuses what it has given up, and ends the connection: "541 INTERNAL_ERROR - Feature `NAME` is deprecated."
pub(super) fn says_deprecated(text: &str) -> bool {
    text.contains("Feature `") && text.contains("` is deprecated")
}

/// The broker's reply code, if it is the broker that said no.
pub(super) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(answer) => Some(answer.get_id()),
        _ => None,
    }
}

/// The error in the broker's own words where it spoke, else the library's.
pub(super) fn reason(error: &lapin::Error) -> String {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(answer) => {
            let lines: Vec<&str> = answer.get_message().as_str().lines().map(str::trim).collect();
            format!("{} {}", answer.get_id(), lines.join(" "))
        }
        lapin::ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}

/// An error with its class and the foreign reason as its source.
pub(super) fn refused(what: impl Into<String>, error: &lapin::Error) -> BrokerError {
    BrokerError {
        fault: classify(error),
        what: what.into(),
        source: Some(reason(error).into()),
    }
}

/// An error without a foreign one behind it.
pub(super) fn fault(fault: Fault, what: impl Into<String>) -> BrokerError {
    BrokerError {
        fault,
        what: what.into(),
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::AMQPError;

    fn answer(code: u16, text: &str) -> lapin::Error {
        let error = AMQPError::from_id(code, text.into()).unwrap();
        lapin::ErrorKind::ProtocolError(error).into()
    }

    #[test]
    fn reply_codes_fall_into_their_classes() {
        let table = [
            (311, "CONTENT_TOO_LARGE", Fault::Message),
            (320, "CONNECTION_FORCED - shutdown", Fault::Endpoint),
            (402, "INVALID_PATH", Fault::Own),
            (
                403,
                "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused",
                Fault::Own,
            ),
            (
                403,
                "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use",
                Fault::Endpoint,
            ),
            (404, "NOT_FOUND - no queue 'q' in vhost '/'", Fault::Own),
            (
                404,
                "NOT_FOUND - home node 'a@b' of durable queue 'q' is down or inaccessible",
                Fault::Endpoint,
            ),
            (405, "RESOURCE_LOCKED", Fault::Endpoint),
            (
                406,
                "PRECONDITION_FAILED - delivery acknowledgement timed out",
                Fault::Endpoint,
            ),
            (501, "FRAME_ERROR", Fault::Endpoint),
            (530, "NOT_ALLOWED - vhost x not found", Fault::Own),
            (530, "NOT_ALLOWED - connection limit (3) is reached", Fault::Endpoint),
            (541, "INTERNAL_ERROR", Fault::Endpoint),
            (
                541,
                "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nIts use is not permitted per the ...",
                Fault::Own,
            ),
        ];
        for (code, text, expected) in table {
            assert_eq!(classify(&answer(code, text)), expected, "{code} {text}");
        }
    }

    #[test]
    fn running_out_of_descriptors_is_our_own_fault() {
        let full = std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert_eq!(classify(&lapin::Error::from(full)), Fault::Own);
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(classify(&lapin::Error::from(refused)), Fault::Endpoint);
    }

    #[test]
    fn the_reason_is_the_brokers_text() {
        assert_eq!(
            reason(&answer(404, "NOT_FOUND - no queue 'q'")),
            "404 NOT_FOUND - no queue 'q'"
        );
    }
}
