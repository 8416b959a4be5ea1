//! Admission: what the API server asks before it stores an object.
//!
//! ```text
//! API server ──HTTPS, POST /──▶ serve ──bytes──▶ review ──Verdict──▶ AdmissionResponse
//!                               (TLS, bounds)    (pure)
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`review`] | an `AdmissionReview` as bytes to the answer: pure, no clock, no cluster |
//! | `serve` | listeners, the certificate that is followed, and bounds of everything |
//!
//! It validates by the parser of the sources ([`hauberk_resources::Verdict`]), so that the API
//! server refuses what the index would refuse; `hauberk validate` says the same of files. What is
//! accepted and does nothing comes back as warnings ([`hauberk_index::warnings`]).
//!
//! Linkerd has one webhook a port, each at `/`: policies on 9443, ServiceProfiles on 8443. Both
//! ports are served, and on either any kind is answered, because what to do follows from the kind
//! in the review and not from where it arrived. That is also where injection will fit: a review of
//! a created Pod or Service goes to a module beside [`review`], whose answer carries a patch.

pub mod review;
pub(crate) mod serve;
