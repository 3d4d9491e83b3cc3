//! A program that serves its own profile, metrics and report on the loopback interface.
//!
//! ```text
//! cargo run -p alloc-global --example http [PORT]
//! curl http://127.0.0.1:6060/metrics
//! ```
//!
//! It works through the day's requests on one thread, and answers on another. No unsafe here.

use alloc_global::report::{NoSymbols, Report, handlers};
use alloc_global::{DebugInfo, PoolAlloc};
use std::collections::HashMap;
use std::io::Read;
use std::thread;
use std::time::Duration;
use tiny_http::{Header, Request, Response, Server};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let port = std::env::args().nth(1).unwrap_or("6060".to_owned());
    // Loopback only: reports name functions and threads.
    let server = Server::http(format!("127.0.0.1:{port}"))?;
    println!("http://{}/report", server.server_addr());
    // One sample in half a MiB is what production systems take.
    alloc_global::start_sampling(512 << 10);
    alloc_global::start_latency();
    thread::Builder::new().name("work".to_owned()).spawn(work)?;
    serve(&server);
    Ok(())
}

fn serve(server: &Server) {
    for request in server.incoming_requests() {
        // A client that went away does not end the program.
        let _ = answer(request);
    }
}

/// No more of a request's body than that is read, in bytes.
const BODY: u64 = 1 << 20;

fn answer(mut request: Request) -> std::io::Result<()> {
    let path = request.url().split('?').next().unwrap_or("").to_owned();
    let known =
        ["/debug/pprof/heap", "/debug/pprof/allocs", "/debug/pprof/symbol", "/metrics", "/report"];
    if !known.contains(&path.as_str()) {
        return request.respond(Response::from_string(known.join("\n")).with_status_code(404));
    }
    // What scrapers ask for every few seconds gathers only what they get.
    let (kind, bytes) = match path.as_str() {
        "/debug/pprof/heap" => handlers::heap(&Report::gather_profile(), &NoSymbols),
        "/debug/pprof/allocs" => handlers::allocs(&Report::gather_profile(), &NoSymbols),
        "/debug/pprof/symbol" => {
            let mut body = String::new();
            request.as_reader().take(BODY).read_to_string(&mut body)?;
            handlers::symbol(&body, &DebugInfo)
        }
        "/metrics" => handlers::metrics(&Report::gather_metrics()),
        // A person waits for this one: everything, functions by their names, out of the program's
        // debug information.
        _ => handlers::report(&Report::gather(), &DebugInfo),
    };
    // What was read of debug information is not kept until somebody asks again.
    DebugInfo::forget();
    let response = Response::from_data(bytes);
    match Header::from_bytes("Content-Type", kind) {
        Ok(header) => request.respond(response.with_header(header)),
        Err(()) => request.respond(response),
    }
}

/// Something that allocates: pages in a cache that is emptied now and then.
fn work() {
    let mut cache: HashMap<u64, String> = HashMap::new();
    for number in 0.. {
        cache.insert(number % 5_000, format!("page {number}, {}", "text ".repeat(40)));
        if number % 100_000 == 0 {
            cache.clear();
        }
        if number % 100 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpStream;
    use std::sync::Arc;

    /// Asks as a scraper does, and returns the head and the body of the answer.
    fn get(server: &Server, path: &str) -> (String, Vec<u8>) {
        let address = server.server_addr().to_ip().expect("a port");
        let mut stream = TcpStream::connect(address).expect("a connection");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("the request is sent");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the answer");
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        let body = bytes.split_off(end);
        (String::from_utf8(bytes).expect("a head in ASCII").to_ascii_lowercase(), body)
    }

    #[test]
    fn every_path_is_answered_in_its_own_type() {
        let server = Arc::new(Server::http("127.0.0.1:0").expect("a port"));
        let served = Arc::clone(&server);
        thread::spawn(move || serve(&served));
        for (path, kind, begin) in [
            ("/debug/pprof/heap", "application/octet-stream", &[0x1f, 0x8b][..]),
            ("/debug/pprof/allocs?seconds=1", "application/octet-stream", &[0x1f, 0x8b]),
            ("/debug/pprof/symbol", "text/plain; charset=utf-8", b"num_symbols: 1\n"),
            ("/metrics", "text/plain; version=0.0.4; charset=utf-8", b"# HELP poolalloc_"),
            ("/report", "text/html; charset=utf-8", b"<!doctype html>"),
        ] {
            let (head, body) = get(&server, path);
            assert!(head.starts_with("http/1.0 200 "), "{path} {head}");
            assert!(head.contains(&format!("\r\ncontent-type: {kind}\r\n")), "{path} {head}");
            assert!(body.starts_with(begin), "{path}");
        }
        let (head, body) = get(&server, "/");
        assert!(head.starts_with("http/1.0 404 "), "{head}");
        assert!(String::from_utf8_lossy(&body).contains("/debug/pprof/heap"));
    }
}
