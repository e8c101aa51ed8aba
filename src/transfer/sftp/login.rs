//! Who px is there: the agent's keys, the private key, the password, in this order.

use std::path::Path;
use std::sync::Arc;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, decode_secret_key};
use russh::{AgentAuthError, MethodKind, MethodSet};

use super::connect::{Doorkeeper, ssh};
use crate::config::Secret;
use crate::message::Fault;
use crate::transfer::peer::{Login, Peer};
use crate::transfer::{Kind, TransferError, off_thread};

/// Servers hang up after a few refusals (six, where nobody changed it): keys of an agent that are tried.
const AGENT_KEYS_MAX: usize = 4;
/// Questions of a server in one log-in.
const QUESTIONS_MAX: usize = 4;

/// One log-in on its way.
struct Attempt<'a> {
    handle: &'a mut Handle<Doorkeeper>,
    user: &'a str,
    place: &'a str,
    /// What the server still takes.
    open: MethodSet,
    tried: Vec<String>,
}

/// Logs in, or says what was tried.
pub(super) async fn log_in(handle: &mut Handle<Doorkeeper>, peer: &Peer, place: &str) -> Result<(), TransferError> {
    let login = &peer.login;
    let (key, opens_key) = match &login.key_file {
        Some(file) => load(file, login.password.as_ref())
            .await
            .map(|(key, opens)| (Some(key), opens))?,
        None => (None, false),
    };
    let mut attempt = Attempt {
        handle,
        user: &login.user,
        place,
        open: MethodSet::empty(),
        tried: Vec::new(),
    };
    // Tells what the server takes, and lets in where it asks for nothing.
    let answer = attempt.handle.authenticate_none(login.user.as_str()).await;
    if attempt.note(answer, None)? || attempt.in_turn(login, key, opens_key).await? {
        return Ok(());
    }
    Err(attempt.refused())
}

impl Attempt<'_> {
    /// Whether one of them was taken.
    async fn in_turn(
        &mut self,
        login: &Login,
        key: Option<PrivateKey>,
        opens_key: bool,
    ) -> Result<bool, TransferError> {
        if login.agent && self.takes(MethodKind::PublicKey) {
            let is_last = key.is_none() && login.password.is_none();
            if self.with_agent(is_last).await? {
                return Ok(true);
            }
        }
        if let (Some(key), Some(file)) = (key, &login.key_file)
            && self.takes(MethodKind::PublicKey)
            && self.with_key(key, file).await?
        {
            return Ok(true);
        }
        match &login.password {
            // What opens the key is not for the server's ears.
            Some(password) if !opens_key => self.with_password(password).await,
            _ => Ok(false),
        }
    }

    fn takes(&self, method: MethodKind) -> bool {
        self.open.contains(&method)
    }

    /// True when px is in. A server that hangs up after it refused something has refused; else it is broken.
    fn note(&mut self, answer: Result<AuthResult, russh::Error>, what: Option<String>) -> Result<bool, TransferError> {
        match answer {
            Ok(AuthResult::Success) => Ok(true),
            Ok(AuthResult::Failure { remaining_methods, .. }) => {
                let has_hung_up = remaining_methods.is_empty() && self.handle.is_closed();
                if has_hung_up && self.tried.is_empty() && what.is_none() {
                    return Err(ssh(russh::Error::HUP, self.place));
                }
                self.tried.extend(what);
                self.open = remaining_methods;
                Ok(false)
            }
            Err(_) if !self.tried.is_empty() => Err(self.refused()),
            Err(err) => Err(ssh(err, self.place)),
        }
    }

    async fn with_agent(&mut self, is_last: bool) -> Result<bool, TransferError> {
        let unreachable = |err: russh::keys::Error| {
            let what = format!(
                "cannot log in to {}: the agent at SSH_AUTH_SOCK does not answer",
                self.place
            );
            TransferError::new(Fault::Own, Kind::Credentials, what).caused_by(err)
        };
        let asked = async {
            let mut agent = AgentClient::connect_env().await?;
            let keys = agent.request_identities().await?;
            Ok((agent, keys))
        };
        let (mut agent, keys) = match asked.await {
            Ok(asked) => asked,
            Err(err) if is_last => return Err(unreachable(err)),
            Err(err) => {
                self.tried.push(format!("no agent: {err}"));
                return Ok(false);
            }
        };
        for identity in keys.into_iter().take(AGENT_KEYS_MAX) {
            let (public, certificate) = match identity {
                AgentIdentity::PublicKey { key, .. } => (key, None),
                AgentIdentity::Certificate { certificate, .. } => {
                    (PublicKey::new(certificate.public_key().clone(), ""), Some(certificate))
                }
            };
            let what = format!("the agent's {}", public.fingerprint(HashAlg::Sha256));
            for hash in self.hashes(&public).await {
                let answer = match &certificate {
                    None => {
                        let key = public.clone();
                        self.handle
                            .authenticate_publickey_with(self.user, key, hash, &mut agent)
                            .await
                    }
                    Some(certificate) => {
                        let certificate = certificate.clone();
                        self.handle
                            .authenticate_certificate_with(self.user, certificate, hash, &mut agent)
                            .await
                    }
                };
                let answer = match answer {
                    Ok(answer) => Ok(answer),
                    Err(AgentAuthError::Send(_)) => Err(russh::Error::SendError),
                    // An agent may decline to sign: the next one.
                    Err(AgentAuthError::Key(err)) => {
                        self.tried.push(format!("{what}: {err}"));
                        break;
                    }
                };
                if self.note(answer, Some(what.clone()))? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn with_key(&mut self, key: PrivateKey, file: &Path) -> Result<bool, TransferError> {
        let key = Arc::new(key);
        for hash in self.hashes(key.public_key()).await {
            let signer = PrivateKeyWithHashAlg::new(Arc::clone(&key), hash);
            let answer = self.handle.authenticate_publickey(self.user, signer).await;
            if self.note(answer, Some(format!("the key {}", file.display())))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How to sign: what the server says it takes; else SHA-2, and SHA-1 for servers that know nothing better.
    async fn hashes(&self, key: &PublicKey) -> Vec<Option<HashAlg>> {
        if !key.algorithm().is_rsa() {
            return vec![None];
        }
        match self.handle.best_supported_rsa_hash().await {
            Ok(Some(hash)) => vec![hash],
            Ok(None) | Err(_) => vec![Some(HashAlg::Sha256), None],
        }
    }

    async fn with_password(&mut self, password: &Secret) -> Result<bool, TransferError> {
        if self.takes(MethodKind::Password) {
            let answer = self.handle.authenticate_password(self.user, password.expose()).await;
            return self.note(answer, Some("the password".into()));
        }
        if self.takes(MethodKind::KeyboardInteractive) {
            return self.with_question(password).await;
        }
        Ok(false)
    }

    /// Answers one question, the password; a server that asks for more is not answered.
    async fn with_question(&mut self, password: &Secret) -> Result<bool, TransferError> {
        let start = self.handle.authenticate_keyboard_interactive_start(self.user, None);
        let mut answer = start.await;
        let mut has_answered = false;
        for _ in 0..QUESTIONS_MAX {
            let asked = match answer {
                Ok(KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. }) => prompts.len(),
                Ok(KeyboardInteractiveAuthResponse::Success) => return Ok(true),
                Ok(KeyboardInteractiveAuthResponse::Failure {
                    remaining_methods,
                    partial_success,
                }) => {
                    let failure = AuthResult::Failure {
                        remaining_methods,
                        partial_success,
                    };
                    return self.note(Ok(failure), Some("the password".into()));
                }
                Err(err) => return self.note(Err(err), Some("the password".into())),
            };
            let answers = match asked {
                0 => Vec::new(),
                1 if !has_answered => {
                    has_answered = true;
                    vec![password.expose().to_owned()]
                }
                _ => break,
            };
            answer = self.handle.authenticate_keyboard_interactive_respond(answers).await;
        }
        self.tried.push("the password, but the server asks for more".into());
        Ok(false)
    }

    fn refused(&self) -> TransferError {
        let tried = match self.tried.as_slice() {
            [] => "nothing that px has".to_owned(),
            tried => tried.join(", "),
        };
        let takes: Vec<&str> = self.open.iter().map(<&str>::from).collect();
        let takes = match takes.as_slice() {
            [] => "nothing more".to_owned(),
            takes => takes.join(", "),
        };
        let what = format!(
            "cannot log in to {}: refused: {tried}; the server takes {takes}",
            self.place
        );
        TransferError::new(Fault::Endpoint, Kind::Forbidden, what)
    }
}

/// The private key, and whether the password was needed to open it.
async fn load(file: &Path, password: Option<&Secret>) -> Result<(PrivateKey, bool), TransferError> {
    let (file, password) = (file.to_owned(), password.cloned());
    // Opening a key takes a tenth of a second of work.
    off_thread(move || {
        let refused = |why: &str| {
            let what = format!("cannot use the private key in {}{why}", file.display());
            TransferError::new(Fault::Own, Kind::Credentials, what)
        };
        let text = std::fs::read_to_string(&file).map_err(|err| refused("").caused_by(err))?;
        let text = Secret::new(text);
        match (decode_secret_key(text.expose(), None), password) {
            (Ok(key), _) => Ok((key, false)),
            (Err(_), Some(password)) => match decode_secret_key(text.expose(), Some(password.expose())) {
                Ok(key) => Ok((key, true)),
                Err(err) => Err(refused(": the password does not open it").caused_by(err)),
            },
            (Err(err), None) => Err(refused("; if it is encrypted, it needs a password").caused_by(err)),
        }
    })
    .await
}
