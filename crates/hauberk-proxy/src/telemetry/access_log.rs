//! The access log: one line on standard error for each inbound request, when it is switched on.
//!
//! Called by the inbound request path with what it knows once the response head is there. Nothing
//! is formatted while the log is off. Forms and field names are those of linkerd2-proxy v2, and so
//! is what they mean: `total_ns` is the time until the response's head, `processing_ns` the part of
//! it in which the request was being worked on here and not waiting for somebody else. That is
//! measured by two clock readings each time the request is taken up again; reading and writing of
//! HTTP/2 connections, which requests share, is in neither proxy's figure.
//!
//! A line is written by one blocking call on the data thread, as lines to standard error are; who
//! switches the log on pays for it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hauberk_model::WorkloadId;
use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use tokio::time::Instant;

use crate::settings::AccessLogFormat;

/// Headers that carry a trace id, in order of preference.
const TRACE_ID_HEADERS: [&str; 3] = ["x-b3-traceid", "x-request-id", "x-amzn-trace-id"];

/// What is kept of a request until its response is there.
#[derive(Debug)]
pub struct Entry {
    format: AccessLogFormat,
    client: SocketAddr,
    client_id: Option<WorkloadId>,
    at: SystemTime,
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    processing: Duration,
}

impl Entry {
    /// Begins an entry. `at` is when the request arrived.
    pub fn new<B>(
        format: AccessLogFormat,
        client: SocketAddr,
        client_id: Option<&WorkloadId>,
        at: SystemTime,
        request: &http::Request<B>,
    ) -> Self {
        Self {
            format,
            client,
            client_id: client_id.cloned(),
            at,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            processing: Duration::ZERO,
        }
    }

    /// Does `work` for a request, and notes how long that took in its entry, if it has one. One place
    /// for both, so that the compiler makes the work's code once.
    pub fn while_processing<T>(entry: Option<&mut Self>, work: impl FnOnce() -> T) -> T {
        let began = entry.as_ref().map(|_| Instant::now());
        let done = work();
        if let (Some(entry), Some(began)) = (entry, began) {
            entry.processing += began.elapsed();
        }
        done
    }

    /// Writes the line.
    pub fn write(self, status: StatusCode, response: &HeaderMap, total: Duration) {
        let mut line = self.line(status, response, total);
        line.push('\n');
        // Nothing can be done about a log that cannot be written.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn line(&self, status: StatusCode, response: &HeaderMap, total: Duration) -> String {
        let client_id = self.client_id.as_ref().map_or("-", WorkloadId::as_str);
        let at = timestamp(self.at);
        let (client, method, uri, version) = (self.client, &self.method, &self.uri, self.version);
        match self.format {
            AccessLogFormat::Apache => format!(
                "{client} {client_id} - [{at}] \"{method} {uri} {version:?}\" {}",
                status.as_u16()
            ),
            AccessLogFormat::Json => {
                let header = |headers: &HeaderMap, name: &str| {
                    let value = headers.get(name).and_then(|value| value.to_str().ok());
                    value.unwrap_or("").to_owned()
                };
                let trace_id = TRACE_ID_HEADERS.iter().find_map(|name| self.headers.get(*name));
                let trace_id = trace_id.and_then(|id| id.to_str().ok()).unwrap_or("");
                let fields = [
                    ("client.addr", client.to_string()),
                    ("client.id", client_id.to_owned()),
                    ("timestamp", at),
                    ("method", method.to_string()),
                    ("uri", uri.to_string()),
                    ("version", format!("{version:?}")),
                    ("trace_id", trace_id.to_owned()),
                    ("request_bytes", header(&self.headers, CONTENT_LENGTH.as_str())),
                    ("response_bytes", header(response, CONTENT_LENGTH.as_str())),
                    ("status", status.as_u16().to_string()),
                    ("total_ns", total.as_nanos().to_string()),
                    ("processing_ns", self.processing.as_nanos().to_string()),
                    ("user_agent", header(&self.headers, USER_AGENT.as_str())),
                    ("host", header(&self.headers, HOST.as_str())),
                ];
                json(&fields)
            }
        }
    }
}

/// One object of strings; the values are foreign, so they are escaped (RFC 8259 section 7).
fn json(fields: &[(&str, String)]) -> String {
    let mut line = String::from("{");
    for (at, (name, value)) in fields.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(line, "{comma}\"{name}\":\"");
        for c in value.chars() {
            match c {
                '"' | '\\' => line.extend(['\\', c]),
                c if c.is_control() => {
                    let _ = write!(line, "\\u{:04x}", u32::from(c));
                }
                c => line.push(c),
            }
        }
        line.push('"');
    }
    line.push('}');
    line
}

/// RFC 3339 in UTC, with nanoseconds. The calendar is that of Howard Hinnant's "civil from days".
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(format: AccessLogFormat) -> Entry {
        let request = http::Request::builder().uri("/a").header("host", "web").body(()).unwrap();
        let at = UNIX_EPOCH + Duration::new(1_609_459_199, 5);
        Entry::new(format, "10.0.0.1:5000".parse().unwrap(), None, at, &request)
    }

    #[test]
    fn apache_lines_are_those_of_linkerd() {
        let line =
            entry(AccessLogFormat::Apache).line(StatusCode::OK, &HeaderMap::new(), Duration::ZERO);
        let expect = "10.0.0.1:5000 - - [2020-12-31T23:59:59.000000005Z] \"GET /a HTTP/1.1\" 200";
        assert_eq!(line, expect);
    }

    #[test]
    fn json_values_are_escaped() {
        let text = json(&[("a", "x\"\\\n".to_owned()), ("b", String::new())]);
        assert_eq!(text, r#"{"a":"x\"\\\u000a","b":""}"#);
        let line =
            entry(AccessLogFormat::Json).line(StatusCode::OK, &HeaderMap::new(), Duration::ZERO);
        assert!(
            line.starts_with("{\"client.addr\":\"10.0.0.1:5000\",\"client.id\":\"-\""),
            "{line}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_not_processing() {
        let mut entry = entry(AccessLogFormat::Json);
        for work in [1, 2] {
            // Stands for work, as the clock moves only when it is told to.
            let advancing = tokio::time::advance(Duration::from_millis(work));
            let mut advancing = std::pin::pin!(advancing);
            let work = std::future::poll_fn(|cx| {
                Entry::while_processing(Some(&mut entry), || advancing.as_mut().poll(cx))
            });
            work.await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let line = entry.line(StatusCode::OK, &HeaderMap::new(), Duration::from_secs(2));
        let expect = "\"total_ns\":\"2000000000\",\"processing_ns\":\"3000000\",\"user_agent\"";
        assert!(line.contains(expect), "{line}");
    }

    #[test]
    fn leap_days_are_days() {
        let check = |seconds, expect: &str| {
            let text = timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
            assert!(text.starts_with(expect), "{text} instead of {expect}");
        };
        check(0, "1970-01-01T00:00:00");
        check(951_782_400, "2000-02-29T00:00:00");
        check(4_107_542_399, "2100-02-28T23:59:59");
        check(4_107_542_400, "2100-03-01T00:00:00");
    }
}
