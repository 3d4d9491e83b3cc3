//! What `Rc` implements, for [`Gc`]; conversions are in `convert`. All of it goes through `Deref`,
//! so a dead handle panics.
//!
//! No unsafe here.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::{Gc, Trace, Weak};

impl<T: ?Sized + fmt::Debug> fmt::Debug for Gc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Gc::try_get(self) {
            Some(value) => value.fmt(f),
            None => f.write_str("(dead)"),
        }
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for Gc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized> fmt::Pointer for Gc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Pointer::fmt(&Gc::as_ptr(self), f)
    }
}

impl<T: ?Sized + PartialEq> PartialEq for Gc<T> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: ?Sized + Eq> Eq for Gc<T> {}

impl<T: ?Sized + PartialOrd> PartialOrd for Gc<T> {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (**self).partial_cmp(&**other)
    }
}

impl<T: ?Sized + Ord> Ord for Gc<T> {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl<T: ?Sized + Hash> Hash for Gc<T> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<T: ?Sized> Borrow<T> for Gc<T> {
    #[inline]
    fn borrow(&self) -> &T {
        self
    }
}

impl<T: ?Sized> AsRef<T> for Gc<T> {
    #[inline]
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: Default + Trace + 'static> Default for Gc<T> {
    fn default() -> Self {
        Gc::new(T::default())
    }
}

impl<T: Trace + 'static> From<T> for Gc<T> {
    fn from(value: T) -> Self {
        Gc::new(value)
    }
}

impl<T: ?Sized + Error> Error for Gc<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        (**self).source()
    }
}

// A handle may move; the value stays.
impl<T: ?Sized> Unpin for Gc<T> {}

#[cfg(unix)]
impl<T: ?Sized + AsFd> AsFd for Gc<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

#[cfg(unix)]
impl<T: ?Sized + AsRawFd> AsRawFd for Gc<T> {
    fn as_raw_fd(&self) -> RawFd {
        (**self).as_raw_fd()
    }
}

impl<T: ?Sized + RefUnwindSafe> UnwindSafe for Gc<T> {}
impl<T: ?Sized + RefUnwindSafe> RefUnwindSafe for Gc<T> {}
impl<T: ?Sized + RefUnwindSafe> UnwindSafe for Weak<T> {}
impl<T: ?Sized + RefUnwindSafe> RefUnwindSafe for Weak<T> {}

#[cfg(feature = "serde")]
mod with_serde {
    use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::{Gc, Trace};

    /// As the value: what is shared is written once for each handle, and a cycle has no end.
    impl<T: ?Sized + Serialize> Serialize for Gc<T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            (**self).serialize(serializer)
        }
    }

    /// A new object for each.
    impl<'de, T: Deserialize<'de> + Trace + 'static> Deserialize<'de> for Gc<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            T::deserialize(deserializer).map(Gc::new)
        }
    }

    /// A new object for each.
    impl<'de, T: Trace + 'static> Deserialize<'de> for Gc<[T]>
    where
        Box<[T]>: Deserialize<'de>,
    {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Box::deserialize(deserializer).map(Gc::<[T]>::from)
        }
    }

    /// A new object for each.
    impl<'de> Deserialize<'de> for Gc<str> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Box::<str>::deserialize(deserializer).map(Gc::<str>::from)
        }
    }
}
