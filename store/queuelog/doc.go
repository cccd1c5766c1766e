// Package queuelog keeps the embedded queue in the store's database, so that its orders, events and dead letters survive as runs do, and
// several processes share them.
//
// It is a package beside the stores and not a set of methods on them. Imports point inwards: a store knows the domain and nothing of
// workers, whose messages these tables hold. Here alone the two meet, and whoever puts a worker together joins them with [For]. The store
// lends its transactions, and with them the meaning of its errors.
package queuelog
