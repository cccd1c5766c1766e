package api

import "regexp"

var operation = regexp.MustCompile(`(^| )(?:[a-z][a-z0-9]*\.[A-Z][A-Za-z]*: )+`)

// Words is what an error says without the names of our operations ("store.FindMachine: "), which are for logs and the journal.
func Words(text string) string { return operation.ReplaceAllString(text, "$1") }
