package sqlstore

import (
	"cmp"
	"regexp"
	"strings"
	"sync"
)

// Words is how a dialect spells the words of a statement. List and Limit have one %s for the parameter; Limit is what follows LIMIT, "" for
// the parameter itself. {skip r} is {skip} for the rows of r alone.
type Words struct{ Now, Lock, Skip, List, Limit string }

// Speller turns statements into a dialect's own. Safe for concurrent use.
type Speller struct {
	words *strings.Replacer
	list  string
	limit string
	done  sync.Map // statement → its spelling; there are as many as the package has
}

// NewSpeller makes a Speller.
func NewSpeller(w Words) *Speller {
	return &Speller{
		words: strings.NewReplacer("{now}", w.Now, "{lock}", w.Lock, "{skip}", w.Skip, "{skip r}", strings.Replace(w.Skip, "UPDATE", "UPDATE OF r", 1)),
		list:  strings.Replace(w.List, "%s", "${1}", 1),
		limit: "LIMIT " + strings.Replace(cmp.Or(w.Limit, "%s"), "%s", "${1}", 1),
	}
}

var (
	listWord  = regexp.MustCompile(`\{list (\$[0-9]+)\}`)
	limitWord = regexp.MustCompile(`LIMIT (\$[0-9]+)`)
)

// Spell returns the dialect's text.
func (s *Speller) Spell(sql string) string {
	if text, ok := s.done.Load(sql); ok {
		return text.(string)
	}
	text := listWord.ReplaceAllString(s.words.Replace(sql), s.list)
	text = limitWord.ReplaceAllString(text, s.limit)
	s.done.Store(sql, text)
	return text
}
