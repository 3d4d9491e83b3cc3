//! The table of all workloads, in the order in which they are shown. No unsafe here; one module
//! below has some (`block`).

mod block;
mod cfrac;
mod collections;
mod growth;
mod memory;
mod micro;
mod ports;
mod real;
mod text;
mod threads;

use real::{documents, interpreter, messages, persistent, syntax, texts, web};
use threads::{handover, stress};

use crate::workload::Kind::{Large, Memory, Micro, Real, Threads};
use crate::workload::{Kind, Outcome, Scale, Workload};

/// Every workload, by kind.
#[must_use]
pub fn all() -> &'static [Workload] {
    ALL
}

const fn load(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    run: fn(&Scale) -> Outcome,
    about: &'static str,
) -> Workload {
    Workload { name, kind, about, unit, run }
}

#[rustfmt::skip]
static ALL: &[Workload] = &[
    load("pair", Micro, "pair", micro::pair,
        "alloc and free of one 64-byte block"),
    load("pair-sizes", Micro, "pair", micro::pair_sizes,
        "alloc and free of one block, 16 sizes of 8 to 512 bytes in random order"),
    load("batch-in-order", Micro, "pair", micro::batch_in_order,
        "10,000 blocks of 64 bytes, freed in the order of their allocation"),
    load("batch-reversed", Micro, "pair", micro::batch_reversed,
        "10,000 blocks of 64 bytes, freed in reverse order"),
    load("batch-random", Micro, "pair", micro::batch_random,
        "10,000 blocks of 64 bytes, freed in random order"),
    load("replace-10k", Micro, "replace", micro::replace_10k,
        "free a random one of 10,000 live blocks of 8 to 512 bytes and allocate another"),
    load("replace-1m", Micro, "replace", micro::replace_1m,
        "the same with 1,000,000 live blocks"),
    load("alloc-test", Micro, "op", ports::alloc_test,
        "alloc or free in 65,536 slots, Pareto sizes up to 1 KiB, every byte written"),
    load("sh6bench", Micro, "pair", ports::sh6bench,
        "batches of growing sizes up to 1,000 bytes, LIFO and FIFO, an eighth kept"),
    load("glibc-simple", Micro, "pair", ports::glibc_simple,
        "25 to 1,600 blocks of 16, 32 and 64 bytes, freed in order"),
    load("cfrac", Micro, "number", cfrac::cfrac,
        "factor numbers by continued fractions: tiny bignums that live for one expression"),
    load("btreemap-churn", Micro, "op", collections::btreemap_churn,
        "insert and remove in a BTreeMap of 20,000 boxes"),
    load("hashmap-churn", Micro, "op", collections::hashmap_churn,
        "insert and remove in a HashMap of 20,000 strings"),
    load("linked-list", Micro, "op", collections::linked_list,
        "queues on 16 linked lists"),
    load("strings", Micro, "line", collections::strings,
        "split, edit, join and format lines of text"),
    load("boxed-tree", Micro, "node", collections::boxed_tree,
        "build and drop binary trees of many depths beside a long-lived one"),

    load("sizes-with-large", Large, "replace", micro::sizes_with_large,
        "replace among 20,000 live blocks, one of 16 between 512 bytes and 64 KiB"),
    load("vec-growth", Large, "element", growth::vec_growth,
        "push into 64 vectors in turn, from empty to random lengths"),
    load("realloc-growth", Large, "growth", growth::realloc_growth,
        "strings grown line by line and byte vectors grown by exact reserves, to megabytes"),
    load("large-mix", Large, "replace", growth::large_mix,
        "replace among 200 blocks of 513 bytes to 1 MiB"),
    load("edges", Large, "replace", growth::edges,
        "replace among 1,000 blocks of 14 sizes from 504 to 2,049 bytes"),
    load("batch-large", Large, "pair", growth::batch_large,
        "10,000 blocks of 1 to 8 KB, freed in random order"),
    load("aligned", Large, "replace", growth::aligned,
        "replace among 500 buffers of 64 bytes to 64 KiB, aligned to 64, 512 or 4,096"),

    load("larson-2", Threads, "replace", threads::larson_2,
        "2 chains of threads replace blocks and hand their array to a new thread"),
    load("larson-8", Threads, "replace", threads::larson_8,
        "the same with 8 chains"),
    load("xmalloc", Threads, "pair", handover::xmalloc,
        "2 threads allocate batches of 4,096 blocks of 64 bytes, 2 others free them"),
    load("producer-consumer", Threads, "pair", handover::producer_consumer,
        "one thread allocates batches of 100 blocks, another frees them"),
    load("buffers", Threads, "pair", handover::buffers,
        "the same with buffers of 513 to 16,000 bytes"),
    load("swap", Threads, "pair", handover::swap,
        "two threads, each frees what the other allocated"),
    load("free-only", Threads, "pair", handover::free_only,
        "one thread replaces among 10,000 blocks, another only frees"),
    load("mstress", Threads, "object", stress::mstress,
        "rounds of 8 new threads that exchange a fourth of their objects"),
    load("rptest", Threads, "replace", stress::rptest,
        "2 threads, random sizes of 8 to 16,000 bytes, a part freed by the other"),
    load("sh8bench", Threads, "pair", stress::sh8bench,
        "sh6bench on 4 threads that free each other's batches"),
    load("threads-apart", Threads, "replace", threads::threads_apart,
        "two threads replace blocks and share nothing"),
    load("threads-short", Threads, "thread", threads::threads_short,
        "threads that live for 100 blocks and leave half of them to others"),

    load("syntax-trees", Real, "file", syntax::syntax_trees,
        "parse a Rust code base of 0.7 MB to syntax trees and walk them (syn)"),
    load("json", Real, "record", documents::json,
        "build, print, parse, edit and print a JSON document (serde_json)"),
    load("regex", Real, "pattern", texts::regular_expressions,
        "compile regular expressions and run them over text (regex)"),
    load("markdown", Real, "page", web::markdown,
        "render the doc comments of a code base, and tables, to HTML (comrak)"),
    load("interpreter", Real, "script", interpreter::interpreter,
        "run scripts: closures, records, sorting, text (rhai)"),
    load("async-messages", Real, "request", messages::async_messages,
        "tasks pass boxed requests through stages, on two worker threads (tokio)"),
    load("persistent-maps", Real, "edit", persistent::persistent_maps,
        "edit persistent maps with an undo history of 200 versions (rpds)"),
    load("templates", Real, "page", web::templates,
        "render a shop's pages from templates (minijinja)"),
    load("xml-tree", Real, "element", documents::xml_tree,
        "parse XML into a tree, edit and write it (quick-xml)"),
    load("word-count", Real, "word", texts::word_count,
        "index the words of a text by line"),
    load("sort-strings", Real, "word", texts::sort_strings,
        "sort words and pairs of words as owned strings"),

    load("fragmentation", Memory, "pair", memory::fragmentation,
        "1,000,000 small blocks, all but each 20th freed, as many bytes in another size"),
    load("drop-and-idle", Memory, "pair", memory::drop_and_idle,
        "2 GB of small blocks dropped, 2 s idle, one allocation"),
    load("five-peaks", Memory, "pair", memory::five_peaks,
        "five times filled to a peak and dropped to a tenth, each with larger blocks"),
];
