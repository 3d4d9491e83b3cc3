//! A program that serves its own profile, metrics and report on the loopback interface.
//!
//! ```text
//! cargo run -p alloc-global --example http [PORT]
//! curl http://127.0.0.1:6060/metrics
//! ```
//!
//! It works through the day's requests on one thread, and answers on another. No unsafe here.

use alloc_global::PoolAlloc;
use alloc_global::report::{NoSymbols, Report, handlers};
use std::collections::HashMap;
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
    thread::Builder::new().name("work".to_owned()).spawn(work)?;
    for request in server.incoming_requests() {
        // A client that went away does not end the program.
        let _ = answer(request);
    }
    Ok(())
}

fn answer(request: Request) -> std::io::Result<()> {
    let path = request.url().split('?').next().unwrap_or("");
    let known = ["/debug/pprof/heap", "/debug/pprof/allocs", "/metrics", "/report"];
    if !known.contains(&path) {
        return request.respond(Response::from_string(known.join("\n")).with_status_code(404));
    }
    let report = Report::of_process();
    let (kind, bytes) = match path {
        "/debug/pprof/heap" => handlers::heap(&report, &NoSymbols),
        "/debug/pprof/allocs" => handlers::allocs(&report, &NoSymbols),
        "/metrics" => handlers::metrics(&report),
        _ => handlers::report(&report, &NoSymbols),
    };
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
