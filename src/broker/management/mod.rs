//! RabbitMQ's management API, as far as the reaper, administration and tests need it: HTTP, JSON, basic login.
//!
//! Every call is one request, answered within the broker's `connect_timeout` and `reply_timeout` together, or an
//! error whose fault says whom to blame. Nothing is retried, and no error holds a password.
//!
//! # How old its figures are
//!
//! Measured with RabbitMQ 3.10.8 and its default interval of 5 s:
//!
//! | asked for | a consumer that came is seen after | one that went |
//! | --- | --- | --- |
//! | [`Management::queues`], [`Management::queue`], in `consumers` | 3 to 10 s | 5 to 10 s |
//! | `GET /api/consumers/VHOST` | 0.7 to 4.5 s | at once |
//! | `Connection::consumers`, a passive declare by AMQP | at once | at once |
//!
//! One queue asked for alone is no fresher than in the list, and `messages` is as old as `consumers` there. The list of
//! consumers shows a user with the tag `management` alone only its own. So px does not ask for it: only a passive declare
//! counts consumers exactly, and only a guarded deletion looks and deletes in one step.
//!
//! A queue that was just made, or whose node is down, has no figures: they are `None`. So it is for all queues where
//! statistics are switched off (`management_agent.disable_metrics_collector`, `management.disable_stats`). With
//! `management.enable_queue_totals` lists still have `messages`, and for quorum queues these leave out what is
//! unacknowledged; one queue asked for alone has nothing.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Certificate, Client, Method, StatusCode, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::BrokerError;
use crate::config::{self, Broker, Secret};
use crate::message::Fault;

mod classify;
mod model;

use classify::{Trouble, classify};
use model::{Alarms, Refusal, Vhost};
pub use model::{Overview, QueueInfo, QueueKind};

/// 100 000 queues, as they are asked for here, are half of it; 3000 take RabbitMQ half a second.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// RabbitMQ itself hangs up after 60 s.
const IDLE: Duration = Duration::from_secs(15);

/// What must hold for a queue to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guard {
    /// It has no consumer at that very moment.
    pub if_unused: bool,
    /// It has no ready message at that very moment; those that are delivered and unacknowledged do not count.
    pub if_empty: bool,
}

/// What became of a queue that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone, with its messages.
    Deleted,
    /// It has a consumer, and stays.
    InUse,
    /// It has messages, and stays.
    NotEmpty,
    /// There was none.
    Gone,
}

/// The management API of one broker, as one user. Cheap to clone; prints no password.
#[derive(Debug, Clone)]
pub struct Management {
    client: Client,
    broker: String,
    /// Without a final slash.
    url: String,
    user: String,
    password: Secret,
}

/// Status and body, whatever they say.
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Management {
    /// Prepares; connects to nobody. Reads `ca_file`. An own fault where px.toml has no `management` for the broker,
    /// or there is no password for its user.
    pub fn new(broker: &Broker) -> Result<Management, BrokerError> {
        let own = |what: String| BrokerError {
            fault: Fault::Own,
            what,
            source: None,
        };
        let name = &broker.name;
        let Some(config::Management { url, user, password }) = &broker.management else {
            let advice = "add management = { url = \"https://HOST:15671\", user = \"NAME\" } to px.toml";
            return Err(own(format!("broker {name} has no management API: {advice}")));
        };
        if password.expose().is_empty() {
            let what = format!("no password for {user} of the management API: secrets.toml has no [{name}] {user}");
            return Err(own(what));
        }
        Ok(Management {
            client: client(broker).map_err(own)?,
            broker: name.clone(),
            url: url.trim_end_matches('/').to_owned(),
            user: user.clone(),
            password: password.clone(),
        })
    }

    /// The same API as another user: to see whether a login works.
    pub fn with_login(&self, user: &str, password: Secret) -> Management {
        Management {
            user: user.to_owned(),
            password,
            ..self.clone()
        }
    }

    /// Whether a thing of this name can be asked for. The others would lead to another thing: the list it stands in, or
    /// all of them.
    pub fn has_address(name: &str) -> bool {
        !matches!(name, "" | "." | "..")
    }

    /// `GET /api/PATH?QUERY`; the segments of the path are encoded here. `None`: there is no such thing.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Option<T>, BrokerError> {
        let answer = self.send(Method::GET, path, query, None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = self.accepted(&Method::GET, path, answer)?;
        serde_json::from_slice(&body)
            .map(Some)
            .map_err(|error| self.fail(&Method::GET, path, Trouble::NotUnderstood(error)))
    }

    /// `PUT /api/PATH`: makes it, or makes it so.
    pub async fn put(&self, path: &[&str], body: &Value) -> Result<(), BrokerError> {
        self.hand_in(Method::PUT, path, body).await
    }

    /// `POST /api/PATH`.
    pub async fn post(&self, path: &[&str], body: &Value) -> Result<(), BrokerError> {
        self.hand_in(Method::POST, path, body).await
    }

    async fn hand_in(&self, method: Method, path: &[&str], body: &Value) -> Result<(), BrokerError> {
        let answer = self.send(method.clone(), path, &[], Some(body)).await?;
        self.accepted(&method, path, answer).map(drop)
    }

    /// `DELETE /api/PATH?QUERY`. Whether it was there.
    pub async fn delete(&self, path: &[&str], query: &[(&str, &str)]) -> Result<bool, BrokerError> {
        let answer = self.send(Method::DELETE, path, query, None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        self.accepted(&Method::DELETE, path, answer).map(|_| true)
    }

    /// What the broker is.
    pub async fn overview(&self) -> Result<Overview, BrokerError> {
        self.needed(&["overview"], &[]).await
    }

    /// The alarms of all nodes, as `memory on NODE`: while there is one, no node of the cluster takes messages.
    pub async fn alarms(&self) -> Result<Vec<String>, BrokerError> {
        let path = ["health", "checks", "alarms"];
        let answer = self.send(Method::GET, &path, &[], None).await?;
        let told: Alarms = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status == StatusCode::SERVICE_UNAVAILABLE && !told.alarms.is_empty() {
            let alarms = told.alarms.iter();
            return Ok(alarms
                .map(|alarm| plain(&format!("{} on {}", alarm.resource, alarm.node)))
                .collect());
        }
        self.accepted(&Method::GET, &path, answer).map(|_| Vec::new())
    }

    /// The names of the virtual hosts that the user may see.
    pub async fn vhosts(&self) -> Result<Vec<String>, BrokerError> {
        let vhosts: Vec<Vhost> = self.needed(&["vhosts"], &[("columns", "name")]).await?;
        Ok(vhosts.into_iter().map(|vhost| vhost.name).collect())
    }

    /// All queues of a virtual host; an own fault where there is no such virtual host.
    pub async fn queues(&self, vhost: &str) -> Result<Vec<QueueInfo>, BrokerError> {
        let path = ["queues", vhost];
        let found = self.get(&path, &[("columns", QueueInfo::COLUMNS)]).await?;
        // The second from RabbitMQ 4.3 on; before, that is a refusal.
        found.ok_or_else(|| {
            let why = format!(
                "Not Found: no such virtual host, or user {} has no rights in the vhost",
                self.user
            );
            self.missing(&path, &why)
        })
    }

    /// One queue; `None` where there is none, or no such virtual host.
    pub async fn queue(&self, vhost: &str, name: &str) -> Result<Option<QueueInfo>, BrokerError> {
        self.get(&["queues", vhost, name], &[("columns", QueueInfo::COLUMNS)])
            .await
    }

    /// Deletes a queue, messages and all, if the guard holds; RabbitMQ looks and deletes in one step.
    ///
    /// Only classic queues can be guarded. RabbitMQ refuses a guard on quorum queues and ignores it on streams, so
    /// both are an own fault here, and nothing is deleted.
    pub async fn delete_queue(&self, vhost: &str, name: &str, guard: Guard) -> Result<Deletion, BrokerError> {
        let path = ["queues", vhost, name];
        let mut query = Vec::new();
        if guard.if_unused {
            query.push(("if-unused", "true"));
        }
        if guard.if_empty {
            query.push(("if-empty", "true"));
        }
        if guard != Guard::default() {
            match self.queue(vhost, name).await? {
                None => return Ok(Deletion::Gone),
                Some(QueueInfo {
                    kind: QueueKind::Classic,
                    ..
                }) => {}
                Some(_) => {
                    let why = "only a classic queue can be deleted with if-unused or if-empty".to_owned();
                    return Err(self.fail(&Method::DELETE, &path, Trouble::Refused(StatusCode::BAD_REQUEST, why)));
                }
            }
        }
        let answer = self.send(Method::DELETE, &path, &query, None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Deletion::Gone);
        }
        if answer.status.is_client_error() {
            // The name, which may be any text, stands before these words.
            let reason = reason(&answer.body);
            if guard.if_unused && reason.ends_with("' in use") {
                return Ok(Deletion::InUse);
            } else if guard.if_empty && reason.ends_with("' not empty") {
                return Ok(Deletion::NotEmpty);
            }
        }
        self.accepted(&Method::DELETE, &path, answer).map(|_| Deletion::Deleted)
    }

    /// Where a 404 is no answer.
    async fn needed<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T, BrokerError> {
        let found = self.get(path, query).await?;
        found.ok_or_else(|| self.missing(path, "Not Found"))
    }

    fn missing(&self, path: &[&str], why: &str) -> BrokerError {
        let missing = Trouble::Refused(StatusCode::NOT_FOUND, why.to_owned());
        self.fail(&Method::GET, path, missing)
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, BrokerError> {
        let url = self.address(path, query)?;
        let mut request = self
            .client
            .request(method.clone(), url)
            .basic_auth(&self.user, Some(self.password.expose()));
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let exchange = async {
            let mut response = request.send().await.map_err(Trouble::Transport)?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(Trouble::Transport)? {
                if (body.len() + chunk.len()) as u64 > ANSWER_BYTES_MAX {
                    return Err(Trouble::TooLarge(ANSWER_BYTES_MAX));
                }
                body.extend_from_slice(&chunk);
            }
            let status = response.status();
            Ok(Answer { status, body })
        };
        exchange.await.map_err(|trouble| self.fail(&method, path, trouble))
    }

    fn address(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, BrokerError> {
        let own = |why: String| BrokerError {
            fault: Fault::Own,
            what: format!("the management API of broker {} cannot be asked {why}", self.broker),
            source: None,
        };
        let mut address = format!("{}/api", self.url);
        for segment in path {
            if !Management::has_address(segment) {
                return Err(own(format!("for a thing whose name is {segment:?}")));
            }
            address.push('/');
            address.extend(utf8_percent_encode(segment, NON_ALPHANUMERIC));
        }
        let mut url = Url::parse(&address).map_err(|error| own(format!("at {}: {error}", self.url)))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// The body of a good answer.
    fn accepted(&self, method: &Method, path: &[&str], answer: Answer) -> Result<Vec<u8>, BrokerError> {
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let refused = Trouble::Refused(answer.status, reason(&answer.body));
        Err(self.fail(method, path, refused))
    }

    fn fail(&self, method: &Method, path: &[&str], trouble: Trouble) -> BrokerError {
        let (fault, why) = classify(&trouble, &self.user);
        let path = plain(&path.join(" "));
        BrokerError {
            fault,
            what: format!(
                "{method} {path}: management API {} of broker {}: {why}",
                self.url, self.broker
            ),
            source: None,
        }
    }
}

/// Why the API refuses, in its own words: a short line.
fn reason(body: &[u8]) -> String {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let said = [refusal.reason, refusal.error].into_iter().find(|said| !said.is_null());
    let text = match said {
        Some(Value::String(text)) => text,
        Some(other) => spelt(other).to_string(),
        None => String::new(),
    };
    plain(&text)
}

/// With text where the API has lists of characters.
fn spelt(said: Value) -> Value {
    let Value::Array(list) = said else { return said };
    let character = |value: &Value| {
        u8::try_from(value.as_u64()?)
            .ok()
            .filter(|byte| (b' '..=b'~').contains(byte))
    };
    let text: Option<String> = list.iter().map(|value| character(value).map(char::from)).collect();
    match text {
        Some(text) => Value::String(text),
        None => list.into_iter().map(spelt).collect(),
    }
}

/// Printable, and at most so long, with its end kept.
fn plain(text: &str) -> String {
    const CHARS_MAX: usize = 600;
    let skipped = text.chars().count().saturating_sub(CHARS_MAX);
    let kept = text.chars().skip(skipped);
    kept.map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn client(broker: &Broker) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("px/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(broker.connect_timeout)
        .timeout(broker.connect_timeout.saturating_add(broker.reply_timeout))
        .pool_idle_timeout(IDLE);
    let is_plain = broker
        .management
        .as_ref()
        .is_some_and(|api| api.url.starts_with("http://"));
    if is_plain {
        // Loads no CA certificates, which a small host may not have.
        builder = builder.tls_certs_only([]);
    } else if let Some(file) = &broker.ca_file {
        let doing = format!("cannot use ca_file {}", file.display());
        let text = std::fs::read(file).map_err(|error| format!("{doing}: {error}"))?;
        let certificates = Certificate::from_pem_bundle(&text).map_err(|error| format!("{doing}: {error}"))?;
        if certificates.is_empty() {
            return Err(format!("{doing}: it holds no PEM certificate"));
        }
        builder = builder.tls_certs_only(certificates);
    }
    let advice = "install ca-certificates, or name the broker's CA with ca_file";
    builder
        .build()
        .map_err(|error| format!("cannot prepare https: {error}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_in_character_codes_is_spelt() {
        let body =
            br#"{"error":"bad_request","reason":["invalid_regexp",[40],[[109,105,115,115,105,110,103,32,41],1]]}"#;
        assert_eq!(reason(body), r#"["invalid_regexp","(",["missing )",1]]"#);
        assert_eq!(reason(br#"{"reason":"as it is"}"#), "as it is");
    }
}
