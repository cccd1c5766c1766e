package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
)

// Exposed names the secrets' files that everybody on this machine may read or write, a line each with its key and the fix. A file that is not
// there is not its matter.
func (c *Config) Exposed() []string {
	var found []string
	seen := map[string]bool{}
	eachSecret(reflect.ValueOf(c).Elem(), "", func(key string, s Secret) {
		info, err := os.Stat(s.File)
		if s.File == "" || err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o007 == 0 || seen[s.File] {
			return
		}
		seen[s.File] = true
		found = append(found, fmt.Sprintf("%s: everybody may open %s (mode %04o): chmod o= %[2]s", key, s.File, info.Mode().Perm()))
	})
	slices.Sort(found)
	return found
}

// eachSecret visits every secret in a configuration, with its key.
func eachSecret(v reflect.Value, key string, visit func(string, Secret)) {
	if s, ok := v.Interface().(Secret); ok {
		visit(key, s)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachSecret(v.Elem(), key, visit)
		}
	case reflect.Struct:
		for f, value := range v.Fields() {
			if tag := strings.Split(f.Tag.Get("yaml"), ",")[0]; tag != "" {
				eachSecret(value, join(key, tag), visit)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			at := fmt.Sprintf("%s[%d]", key, i)
			if id := reflect.Indirect(v.Index(i)); id.Kind() == reflect.Struct && id.FieldByName("ID").IsValid() && id.FieldByName("ID").String() != "" {
				at = join(key, id.FieldByName("ID").String())
			}
			eachSecret(v.Index(i), at, visit)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			eachSecret(v.MapIndex(k), join(key, k.String()), visit)
		}
	}
}
