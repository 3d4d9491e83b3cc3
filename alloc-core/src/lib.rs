//! Size classes, page sources, arenas, pools and heaps. No unsafe here.
