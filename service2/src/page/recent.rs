//! [`Recent`]: a finished request of the page; and [`RecentRequests`], the last ones.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use common::timings::Record;

use super::{answers::Answers, form::Form};

/// The most requests that are kept.
pub(super) const MOST: usize = 64;

/// The most memory that they take together, in bytes. A usual request takes 3 KB.
pub(super) const MOST_BYTES: usize = 64 * 1024;

/// The memory that a request may still take after its page was made, for its access line.
const ACCESS_LINE: usize = 2 * 1024;

/// A finished request.
pub(super) struct Recent {
    pub(super) request_id: String,
    pub(super) form: Form,
    pub(super) answers: Answers<()>,
    /// The items of the list, as HTML. They take less memory so.
    pub(super) list: Bytes,
    /// The items of the stream, as HTML.
    pub(super) stream: Bytes,
    /// Why the stream ended early, if it did.
    pub(super) failure: Option<String>,
    /// What the request did. Its access line comes last, when the response has left.
    pub(super) record: Record,
    pub(super) took: Duration,
    /// The time from the arrival of the request to its deadline, and what was left of it.
    pub(super) deadline: Duration,
    pub(super) left: Duration,
}

/// What takes memory, in bytes.
pub(super) trait Size {
    fn size(&self) -> usize;
}

impl Size for Recent {
    fn size(&self) -> usize {
        let hello = self.answers.hello.as_ref().and_then(|it| it.as_ref().ok());
        size_of::<Self>()
            + self.request_id.len()
            + self.form.size()
            + hello.map_or(0, String::len)
            + self.list.len()
            + self.stream.len()
            + self.record.size()
    }
}

/// The last requests of the page, each under a token that nobody can guess: the id of a request is
/// the client's, who may choose one that another client has. Clones share their state.
pub(super) struct RecentRequests<R = Recent>(Arc<Mutex<Requests<R>>>);

/// The oldest comes first.
type Requests<R> = VecDeque<(String, Arc<R>)>;

impl<R> Clone for RecentRequests<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R> Default for RecentRequests<R> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<R: Size> RecentRequests<R> {
    /// Keeps a request and returns its token, or returns the request if it is too large. The oldest
    /// requests give way.
    pub(super) fn keep(&self, request: R) -> Result<String, R> {
        let size = request.size() + ACCESS_LINE;
        let Some(token) = token().ok().filter(|_| size <= MOST_BYTES) else {
            return Err(request);
        };
        let mut all = self.lock();
        let mut total: usize = all.iter().map(|(_, request)| request.size()).sum();
        while all.len() >= MOST || total + size > MOST_BYTES {
            let Some((_, oldest)) = all.pop_front() else {
                break;
            };
            total = total.saturating_sub(oldest.size());
        }
        all.push_back((token.clone(), Arc::new(request)));
        Ok(token)
    }

    pub(super) fn find(&self, token: &str) -> Option<Arc<R>> {
        let all = self.lock();
        let found = all.iter().find(|(known, _)| known == token);
        found.map(|(_, request)| request.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Requests<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 128 random bits in hexadecimal, from the system: the generator of request ids need not be secure.
fn token() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    impl Size for usize {
        fn size(&self) -> usize {
            *self
        }
    }

    fn keep(requests: &RecentRequests<usize>, sizes: impl Iterator<Item = usize>) -> Vec<String> {
        sizes.map(|size| requests.keep(size).unwrap()).collect()
    }

    fn kept(requests: &RecentRequests<usize>, tokens: &[String]) -> Vec<bool> {
        let tokens = tokens.iter();
        tokens.map(|token| requests.find(token).is_some()).collect()
    }

    #[test]
    fn the_last_64_requests_are_kept() {
        let requests = RecentRequests::default();
        let tokens = keep(&requests, 0..MOST + 10);
        assert_eq!(kept(&requests, &tokens[..10]), [false; 10]);
        assert_eq!(kept(&requests, &tokens[10..]), [true; MOST]);
        assert_eq!(requests.find(&tokens[20]).as_deref(), Some(&20));
        assert!(requests.find("").is_none());
    }

    #[test]
    fn large_requests_push_out_more_of_the_old_ones() {
        let requests = RecentRequests::default();
        let old = keep(&requests, [10 * 1024; 5].into_iter());
        let new = keep(&requests, [20 * 1024].into_iter());
        assert_eq!(kept(&requests, &old), [false, true, true, true, true]);
        assert_eq!(kept(&requests, &new), [true]);
        // One that is too large is not kept, and pushes nothing out.
        assert_eq!(requests.keep(MOST_BYTES), Err(MOST_BYTES));
        assert_eq!(kept(&requests, &new), [true]);
        keep(&requests, [MOST_BYTES - ACCESS_LINE].into_iter());
        assert_eq!(kept(&requests, &new), [false]);
    }

    #[test]
    fn a_token_has_32_digits_and_none_comes_twice() {
        let tokens: HashSet<_> = (0..1_000).map(|_| token().unwrap()).collect();
        assert_eq!(tokens.len(), 1_000);
        assert!(tokens.iter().all(|token| token.len() == 32));
    }
}
