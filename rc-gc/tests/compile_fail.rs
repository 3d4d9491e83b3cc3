//! Programs that must not compile, and what the compiler says about each.
//!
//! Each program is a binary of one package that is written below the target folder and checked there, from
//! what is downloaded already. Of the compiler's words only those that are this crate's own are compared;
//! the rest changes from release to release. A program that is fine is among them, so that a package that
//! cannot be built at all does not pass.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Name, program, and what must be said about it. Nothing: it compiles.
const PROGRAMS: &[(&str, &str, &[&str])] = &[
    (
        "fine",
        "#[derive(Trace)] #[gc(drop)] struct S(Option<Gc<S>>, #[gc(skip)] Box<dyn Fn()>);
         impl Drop for S { fn drop(&mut self) {} }
         fn main() { Gc::new(S(None, Box::new(|| {}))); }",
        &[],
    ),
    (
        "drop_without_attribute",
        "#[derive(Trace)] struct S(Option<Gc<S>>);
         impl Drop for S { fn drop(&mut self) {} }
         fn main() { Gc::new(S(None)); }",
        &["HasDropSoNeedsTheAttributeGcDrop"],
    ),
    (
        "field_without_trace",
        "struct Other;
         #[derive(Trace)] struct S { a: u8, other: Other }
         fn main() { Gc::new(S { a: 1, other: Other }); }",
        &[
            "the cycle collector cannot look into `Other`",
            "derive it: `#[derive(rc_gc::Trace)]`",
            "or mark the field `#[gc(skip)]`: handles inside are then not collected in cycles",
        ],
    ),
    (
        "closure_field",
        "#[derive(Trace)] enum E { A(Option<Box<dyn Fn()>>) }
         fn main() { Gc::new(E::A(None)); }",
        &[
            "the cycle collector cannot look into `dyn Fn()`",
            "of a closure the captures cannot be seen: make it a struct with a method",
        ],
    ),
    (
        "trait_object_of_another_trait",
        "trait Shape {}
         #[derive(Trace)] struct S(Box<dyn Shape>);
         fn main() {}",
        &[
            "the cycle collector cannot look into `dyn Shape`",
            "a `dyn Trait` has it if the trait says so: `trait Name: rc_gc::Trace`",
        ],
    ),
    (
        "value_without_trace",
        "struct Other;
         fn main() { Gc::new(Other); }",
        // Notes are left out here for the compiler's own suggestion, so this stands in the message.
        &["the cycle collector cannot look into `Other`: it has no `#[derive(rc_gc::Trace)]`"],
    ),
    (
        "value_of_a_container_without_trace",
        "struct Other;
         fn main() { Gc::new(std::cell::RefCell::new(vec![Other])); }",
        &["the cycle collector cannot look into `Other`: it has no `#[derive(rc_gc::Trace)]`"],
    ),
    (
        "sent_to_a_thread",
        "fn main() { let gc = Gc::new(1); std::thread::spawn(move || *gc); }",
        &["cannot be sent between threads safely"],
    ),
    (
        "weak_sent_to_a_thread",
        "fn main() { let weak = rc_gc::Weak::<u8>::new(); std::thread::spawn(move || drop(weak)); }",
        &["cannot be sent between threads safely"],
    ),
    (
        "heap_sent_to_a_thread",
        "fn main() { let heap = rc_gc::Heap::new(); std::thread::spawn(move || drop(heap)); }",
        &["cannot be sent between threads safely"],
    ),
    (
        "shared_with_a_thread",
        "fn main() { let gc = Gc::new(1); std::thread::scope(|s| { s.spawn(|| *gc); }); }",
        &["cannot be shared between threads safely"],
    ),
    (
        "borrowed_value",
        "fn main() { let text = String::new(); let gc = Gc::new(text.as_str()); drop((gc, text)); }",
        &["`text` does not live long enough"],
    ),
    (
        "shortened_and_filled",
        "fn fill<'a>(gc: &mut Gc<&'a str>, text: &'a str) { *Gc::get_mut(gc).unwrap() = text; }
         fn main() {}",
        &["requires that `'a` must outlive `'static`"],
    ),
    (
        "shortened_and_unshared",
        "fn fill<'a>(gc: &mut Gc<&'a str>, text: &'a str) { *Gc::make_mut(gc) = text; }
         fn main() {}",
        &["requires that `'a` must outlive `'static`"],
    ),
    (
        "union_type",
        "#[derive(Trace)] union U { a: u8 }
         fn main() {}",
        &["cannot be derived for a union", "write `unsafe impl Trace` by hand"],
    ),
    (
        "unknown_attribute",
        "#[derive(Trace)] #[gc(skipped)] struct S(u8);
         fn main() {}",
        &[
            "expected `bound = \"...\"`, `drop`, `finalize` or `crate = path` on a type, `skip` on a field",
        ],
    ),
    (
        "unknown_attribute_of_a_field",
        "#[derive(Trace)] struct S(#[gc(ignore)] u8);
         fn main() {}",
        &["unknown attribute of a field: expected `skip`"],
    ),
    (
        "attribute_of_the_type_on_a_field",
        "#[derive(Trace)] struct S<T>(#[gc(bound = \"T: Copy\")] T);
         fn main() {}",
        &["`#[gc(bound)]` belongs on the type"],
    ),
    (
        "attribute_given_twice",
        "#[derive(Trace)] #[gc(drop)] #[gc(drop)] struct S(u8);
         impl Drop for S { fn drop(&mut self) {} }
         fn main() {}",
        &["`drop` is given twice"],
    ),
    (
        "packed_type",
        "#[derive(Trace)] #[repr(C, packed)] struct S(u8, u32);
         fn main() {}",
        &["cannot be derived for a packed type", "or `#[gc(skip)]` on each field"],
    ),
    (
        "guard_field",
        "#[derive(Trace)] struct S(std::cell::RefMut<'static, Gc<u8>>);
         fn main() {}",
        &[
            "the cycle collector cannot look into `RefMut<'static, Gc<u8>>`",
            "or mark the field `#[gc(skip)]`",
        ],
    ),
    (
        "skipped_variant",
        "#[derive(Trace)] enum E { #[gc(skip)] A(u8) }
         fn main() {}",
        &["write it on each field of the variant"],
    ),
    (
        "skipped_type",
        "#[derive(Trace)] #[gc(skip)] struct S(u8);
         fn main() {}",
        &["`#[gc(skip)]` belongs on a field"],
    ),
    (
        "finalize_without_finalizer",
        "#[derive(Trace)] #[gc(finalize)] struct S(u8);
         fn main() {}",
        &["`S: Finalize` is not satisfied"],
    ),
    (
        "trace_by_hand_is_unsafe",
        "struct S(Gc<u8>);
         impl Trace for S { fn trace(&self, t: &mut rc_gc::Tracer) { self.0.trace(t) } }
         fn main() {}",
        &["requires an `unsafe impl` declaration"],
    ),
    (
        "changed_through_a_handle",
        "fn main() { let gc = Gc::new(1); *gc = 2; }",
        &["cannot assign to data in dereference of `Gc<"],
    ),
];

/// Writes the package; its folder.
fn package() -> std::path::PathBuf {
    let crate_ = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile-fail");
    let programs = package.join("src/bin");
    // Whatever an older version of this file left there.
    if programs.exists() {
        fs::remove_dir_all(&programs).expect("a folder of ours");
    }
    fs::create_dir_all(&programs).expect("a folder below the target folder");
    let manifest = format!(
        "[package]\nname = \"compile-fail\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nrc-gc = {{ path = {crate_:?} }}\n\n[workspace]\n"
    );
    fs::write(package.join("Cargo.toml"), manifest).expect("a manifest");
    let lock = crate_.parent().expect("the workspace's folder").join("Cargo.lock");
    fs::copy(lock, package.join("Cargo.lock")).expect("the workspace's lock file");
    for (name, program, _) in PROGRAMS {
        let program = format!("use rc_gc::{{Gc, Trace}};\n{program}\n");
        fs::write(programs.join(name).with_extension("rs"), program).expect("a program");
    }
    package
}

#[test]
fn programs_that_must_not_compile_are_told_why() {
    let package = package();
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--bins", "--keep-going", "--color", "never"])
        .current_dir(&package)
        .env("CARGO_TARGET_DIR", package.join("target"))
        .env("RUSTFLAGS", "--cap-lints=allow")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo");
    let said = String::from_utf8_lossy(&output.stderr);
    for (name, _, wanted) in PROGRAMS {
        // Messages are apart by an empty line, and name the file.
        let file = format!("src/bin/{name}.rs:");
        let about: Vec<&str> = said
            .split("\n\n")
            .filter(|message| message.contains("error") && message.contains(&file))
            .collect();
        if wanted.is_empty() {
            assert!(about.is_empty(), "{name} does not compile:\n{said}");
            assert!(!said.contains(&format!("(bin \"{name}\") due to")), "{name}:\n{said}");
        } else {
            assert!(!about.is_empty(), "{name} compiles:\n{said}");
        }
        for wanted in *wanted {
            let found = about.iter().any(|message| message.contains(wanted));
            assert!(found, "{name}: not said: {wanted}\n{}", about.join("\n\n"));
        }
    }
}
