//! A language interpreter: `rhai` runs the scripts in `bench/data/scripts`. No unsafe here.

use rhai::{Engine, Scope};

use crate::workload::{Outcome, Scale, fold, fold_bytes, measure};

const SCRIPTS: [(&str, &str); 4] = [
    ("closures", include_str!("../../../data/scripts/closures.rhai")),
    ("inventory", include_str!("../../../data/scripts/inventory.rhai")),
    ("sorting", include_str!("../../../data/scripts/sorting.rhai")),
    ("words", include_str!("../../../data/scripts/words.rhai")),
];

/// Compiles and runs each script with a fresh engine and scope.
pub(crate) fn interpreter(scale: &Scale) -> Outcome {
    let rounds = scale.of(30);
    measure(|| {
        let mut sum = 0;
        for _ in 0..rounds {
            for (name, script) in SCRIPTS {
                let result = run(script).unwrap_or_else(|error| panic!("{name}: {error}"));
                sum = fold_bytes(fold(sum, result as u64), name.as_bytes());
            }
        }
        (rounds * SCRIPTS.len() as u64, sum)
    })
}

fn run(script: &str) -> Result<i64, Box<rhai::EvalAltResult>> {
    let mut engine = Engine::new();
    // The same limits in every build; the library's own are lower in debug builds.
    engine.set_max_call_levels(64);
    engine.set_max_expr_depths(64, 32);
    let program = engine.compile(script)?;
    engine.eval_ast_with_scope::<i64>(&mut Scope::new(), &program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faulty_script_is_an_error_and_not_a_result() {
        assert!(run("let x = ;").is_err());
        assert!(run("throw 1").is_err());
    }
}
