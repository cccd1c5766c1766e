package sqlstore

import (
	"regexp"
	"strings"
	"sync"
)

// Words is how a dialect spells the words of a statement. List has one %s for the parameter. {skip r} is {skip} for the rows of r alone.
type Words struct{ Now, Lock, Skip, List string }

// Speller turns statements into a dialect's own. Safe for concurrent use.
type Speller struct {
	words *strings.Replacer
	list  string
	done  sync.Map // statement → its spelling; there are as many as the package has
}

// NewSpeller makes a Speller.
func NewSpeller(w Words) *Speller {
	return &Speller{words: strings.NewReplacer("{now}", w.Now, "{lock}", w.Lock, "{skip}", w.Skip, "{skip r}", strings.Replace(w.Skip, "UPDATE", "UPDATE OF r", 1)), list: strings.Replace(w.List, "%s", "$1", 1)}
}

// Spell returns the dialect's text.
func (s *Speller) Spell(sql string) string {
	if text, ok := s.done.Load(sql); ok {
		return text.(string)
	}
	text := regexp.MustCompile(`\{list (\$[0-9]+)\}`).ReplaceAllString(s.words.Replace(sql), strings.ReplaceAll(s.list, "$1", "${1}"))
	s.done.Store(sql, text)
	return text
}
