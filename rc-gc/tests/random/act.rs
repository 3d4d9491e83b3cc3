//! One random step, from wherever user code runs. No unsafe here.

use std::any::Any;
use std::rc::Rc;

use rc_gc::{Gc, Generation, Heap, Mode, Thresholds, Weak, coerce};

use crate::world::{
    Aligned, Body, Dropped, Finalized, Handle, Large, Object, Plain, World, look, must, with,
};

/// Steps one inside the other.
const DEEP: u32 = 5;
/// Handles that are kept at once, of each kind.
const MANY: usize = 10;

/// Ends a step, also if it panics.
struct Step<'a>(&'a World);

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.depth.set(self.0.depth.get() - 1);
    }
}

/// Up to three steps, if there is budget.
pub(crate) fn act(world: &World) {
    if world.depth.get() >= DEEP {
        return;
    }
    world.depth.set(world.depth.get() + 1);
    let step = Step(world);
    for _ in 0..1 + world.below(3) {
        if world.budget.get() == 0 {
            break;
        }
        world.budget.set(world.budget.get() - 1);
        one(world);
        world.look();
    }
    drop(step);
}

fn one(world: &World) {
    match world.below(12) {
        0 | 1 => make(world),
        2 | 3 => link(world),
        4..=6 => part(world),
        7 => watch(world),
        8 => collect(world),
        9 => alone(world),
        10 => bury(world),
        _ => settings(world),
    }
}

/// A heap of the world, or the thread's; mostly the same for some time, because cycles across heaps stay.
fn heap(world: &World) -> Option<Rc<Heap>> {
    let some = world.heaps.borrow().len() + 1;
    let at = if world.below(12) == 0 { world.below(some) } else { world.born() / 16 % some };
    world.heaps.borrow().get(at).cloned()
}

fn make(world: &World) {
    if world.roots.borrow().len() >= MANY {
        return drop(world.take(&world.roots));
    }
    let (heap, body) = (heap(world), world.body());
    let heap = heap.as_deref();
    let handle: Handle = match world.below(8) {
        _ if world.below(40) == 0 => return chain(world),
        0 => coerce!(placed(Dropped(body), heap)),
        1 => coerce!(placed(Finalized(body), heap)),
        2 => coerce!(placed(Large(body, [7; 64]), heap)),
        3 => coerce!(placed(Aligned(body), heap)),
        4 => boxed(Box::new(Finalized(body)), heap),
        5 => boxed(Box::new(Plain(body)), heap),
        6 => {
            let make = |me: &Weak<Dropped>| {
                must(me.upgrade().is_none(), "there before it is made");
                let weak: Weak<dyn Object> = coerce!(weak: me.clone());
                world.weaks.borrow_mut().push(weak);
                act(world);
                Dropped(body)
            };
            match heap {
                None => coerce!(Gc::new_cyclic(make)),
                Some(heap) => coerce!(Gc::new_cyclic_in(make, heap)),
            }
        }
        _ => {
            let plain = placed(Plain(body), heap);
            world.plains.borrow_mut().push(plain.clone());
            coerce!(plain)
        }
    };
    look(&handle);
    world.keep(handle);
}

/// A chain that is longer than drops go one inside the other.
fn chain(world: &World) {
    let mut next: Option<Handle> = None;
    let panics = world.panics.replace(false);
    for at in 0..66 + world.below(40) {
        let (heap, body) = (heap(world), world.body());
        let heap = heap.as_deref();
        body.edges.replace(next.take().into_iter().collect());
        next = Some(match at % 5 {
            0 => coerce!(placed(Finalized(body), heap)),
            1 => coerce!(placed(Large(body, [7; 64]), heap)),
            2 => boxed(Box::new(Dropped(body)), heap),
            _ => coerce!(placed(Dropped(body), heap)),
        });
    }
    world.panics.set(panics);
    next.into_iter().for_each(|first| world.keep(first));
}

fn placed<T: rc_gc::Trace + 'static>(value: T, heap: Option<&Heap>) -> Gc<T> {
    match heap {
        None => Gc::new(value),
        Some(heap) => Gc::new_in(value, heap),
    }
}

fn boxed(value: Box<dyn Object>, heap: Option<&Heap>) -> Handle {
    match heap {
        None => Gc::from(value),
        Some(heap) => Gc::from_box_in(value, heap),
    }
}

/// More handles in objects, of the living and of the dead.
fn link(world: &World) {
    let (from, to) = (world.pick(&world.roots), world.pick(&world.roots));
    let (Some(from), Some(to)) = (from, to) else { return };
    let Some(object) = Gc::try_get(&from) else { return };
    let body = object.body();
    match world.below(8) {
        0..=2 => {
            if let Ok(mut edges) = body.edges.try_borrow_mut() {
                edges.push(to);
            }
        }
        // Moved: a root becomes an edge without a decrement.
        3 => {
            let moved = world.take(&world.roots);
            if let Ok(mut edges) = body.edges.try_borrow_mut() {
                edges.extend(moved);
            }
        }
        4 => body.slot.set(Some(to)),
        5 => drop(body.once.set(to)),
        6 => {
            let some: Vec<Handle> = world.roots.borrow().iter().take(3).cloned().collect();
            let many: Gc<[Handle]> = some.into_iter().collect();
            let old = body.many.try_borrow_mut().map(|mut cell| cell.replace(many));
            drop(old);
        }
        _ => {
            let dead = world.pick(&world.graves);
            if let Ok(mut edges) = body.edges.try_borrow_mut() {
                edges.extend(dead);
            }
        }
    }
}

/// Fewer handles.
fn part(world: &World) {
    let Some(root) = world.pick(&world.roots) else { return };
    let Some(object) = Gc::try_get(&root) else { return };
    let body = object.body();
    match world.below(9) {
        0 | 1 | 7 | 8 => drop(world.take(&world.roots)),
        2 => {
            let edge = body.edges.try_borrow_mut().ok().and_then(|mut edges| edges.pop());
            edge.into_iter().for_each(|edge| world.keep(edge));
        }
        3 => {
            // All of them dropped while the cell is borrowed.
            if let Ok(mut edges) = body.edges.try_borrow_mut() {
                edges.clear();
            }
        }
        4 => drop(body.slot.take()),
        5 => drop(world.take(&world.plains)),
        _ => {
            let many = body.many.try_borrow_mut().ok().and_then(|mut many| many.take());
            if let Some(first) = many.as_deref().and_then(|many| many.first()) {
                world.keep(first.clone());
            }
        }
    }
}

/// `Weak`s and callbacks.
fn watch(world: &World) {
    let root = world.pick(&world.roots);
    match (world.below(5), root) {
        (0 | 1, Some(root)) => world.weaks.borrow_mut().push(Gc::downgrade(&root)),
        (2, Some(root)) => Gc::on_dead(&root, || with(act)),
        (3, _) => {
            let found = world.pick(&world.weaks).and_then(|weak| weak.upgrade());
            if let Some(found) = found {
                must(!Gc::is_dead(&found), "a Weak leads to what is dead");
                look(&found);
                if world.roots.borrow().len() < MANY {
                    world.keep(found);
                }
            }
        }
        _ => drop(world.take(&world.weaks)),
    }
}

fn collect(world: &World) {
    let generation = Generation::from_index(world.below(3)).expect("below 3");
    let fuse = if world.panics.get() && world.below(3) == 0 { 1 + world.below(12) } else { 0 };
    world.fuse.set(fuse as u32);
    match heap(world) {
        None => rc_gc::collect_generation(generation),
        Some(heap) => heap.collect_generation(generation),
    };
    // A whole world without a seam.
    if !std::thread::panicking() {
        must(rc_gc::check().is_ok(), "an invariant of the thread's heap does not hold");
        if let Some(heap) = world.pick(&world.heaps) {
            must(heap.check().is_ok(), "an invariant of a heap does not hold");
        }
    }
}

/// Ends a loan, also if user code panics.
struct Returned<'a>(&'a mut Body);

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.0.lend(false);
    }
}

/// What only a sole handle may do, with user code meanwhile.
fn alone(world: &World) {
    match world.below(4) {
        0 => {
            let Some(mut root) = world.take(&world.roots) else { return };
            if let Some(object) = Gc::get_mut(&mut root) {
                let body = object.body_mut();
                body.look();
                body.lend(true);
                let edges = std::mem::take(body.edges.get_mut());
                let returned = Returned(body);
                collect(world);
                act(world);
                *returned.0.edges.get_mut() = edges;
                act(world);
            }
            world.keep(root);
        }
        1 => {
            let Some(mut plain) = world.take(&world.plains) else { return };
            // A clone, if it is shared; what was only watched moves.
            if !Gc::is_dead(&plain) {
                let body = &mut Gc::make_mut(&mut plain).0;
                body.edges.get_mut().truncate(2);
                act(world);
                body.look();
            }
            world.plains.borrow_mut().push(plain);
        }
        2 => {
            let Some(plain) = world.take(&world.plains) else { return };
            match Gc::try_unwrap(plain) {
                Ok(Plain(body)) => {
                    act(world);
                    body.look();
                }
                Err(plain) => world.plains.borrow_mut().push(plain),
            }
        }
        _ => {
            let Some(root) = world.take(&world.roots) else { return };
            let any: Gc<dyn Any> = coerce!(root);
            match any.downcast::<Plain>() {
                Ok(plain) => world.plains.borrow_mut().push(plain),
                Err(any) => drop(any),
            }
        }
    }
    if world.plains.borrow().len() > MANY {
        drop(world.take(&world.plains));
    }
}

/// Dead handles.
fn bury(world: &World) {
    let Some(dead) = world.take(&world.graves) else { return };
    must(Gc::try_get(&dead).is_none(), "alive again");
    let weak = Gc::downgrade(&dead);
    must(weak.upgrade().is_none() && weak.strong_count() == 0, "a Weak to what is dead");
    match world.below(4) {
        0 => {
            let mut dead = dead.clone();
            must(Gc::get_mut(&mut dead).is_none(), "a dead value is lent");
            world.weaks.borrow_mut().push(weak);
        }
        1 => world.graves.borrow_mut().push(dead),
        2 => {
            let any: Gc<dyn Any> = coerce!(dead);
            must(any.downcast::<Plain>().is_err(), "a dead value is looked at");
        }
        _ => drop((dead, weak)),
    }
}

fn settings(world: &World) {
    match world.below(8) {
        0 => drop(world.take(&world.heaps)),
        1 | 2 => {
            if world.heaps.borrow().len() < 3 {
                let heap = Rc::new(Heap::new());
                world.heaps.borrow_mut().push(heap);
            }
        }
        3 => must(rc_gc::trim() < 1 << 40, "more given back than there is"),
        4 => rc_gc::set_thresholds(Thresholds { young: 1, middle: 2, growth: 1 }),
        5 => rc_gc::set_mode([Mode::Automatic, Mode::AtSafepoint][world.below(2)]),
        6 => must(rc_gc::safepoint() < 1_000_000, "more freed than there is"),
        _ if !world.panics.get() => {}
        _ if std::thread::panicking() => {}
        _ => std::panic::resume_unwind(Box::new("planned")),
    }
}
