{{/* Where the databases, the stream and the mail server are, and which Secrets open them. */}}

{{/* (list $ name service): where its database is. One that a Secret names is not made by CloudNativePG; a bundled one
     may have its password from there. */}}
{{- define "tally.databaseMode" -}}
{{- $mode := (index . 0).Values.databases.mode -}}
{{- ternary "external" $mode (and (eq $mode "cloudnative-pg") (ne (index . 2).databaseSecret "")) -}}
{{- end -}}

{{/* (list $ name service): the Secret with the database's address. */}}
{{- define "tally.databaseSecret" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $service := index . 2 -}}
{{- if $service.databaseSecret -}}
{{- $service.databaseSecret -}}
{{- else if eq $root.Values.databases.mode "bundled" -}}
{{- include "tally.database" (list $root $name) -}}
{{- else if eq $root.Values.databases.mode "cloudnative-pg" -}}
{{- include "tally.database" (list $root $name) -}}-app
{{- else -}}
{{- fail (printf "services.%s.databaseSecret is needed: databases.mode is external" $name) -}}
{{- end -}}
{{- end -}}

{{/* (list $ name): the name of a service's database server. */}}
{{- define "tally.database" -}}
{{- include "tally.name" (list (first .) (printf "%s-database" (last .))) -}}
{{- end -}}

{{/* (list $ name service): whether the cluster has not got yet what a migration of it needs; empty is no, as it is where
     no cluster is asked. (Every namespace has the ConfigMap by which that is told.) */}}
{{- define "tally.isNew" -}}
{{- $namespace := (index . 0).Release.Namespace -}}
{{- if lookup "v1" "ConfigMap" $namespace "kube-root-ca.crt" -}}
{{- $account := lookup "v1" "ServiceAccount" $namespace (include "tally.name" (list (index . 0) (index . 1))) -}}
{{- $secret := lookup "v1" "Secret" $namespace (include "tally.databaseSecret" .) -}}
{{- if not (and $account $secret) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tally.natsSecret" -}}
{{- default (include "tally.name" (list . "nats")) .Values.nats.existingSecret -}}
{{- end -}}

{{/* (the values of nats): bytes that the bundled server may store: the one stream, and what consumers remember. */}}
{{- define "tally.natsStore" -}}
{{- add (int64 .streamMaxBytes) 134217728 -}}
{{- end -}}

{{/* (a quantity such as 2Gi): in bytes. */}}
{{- define "tally.bytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- mulf (regexFind "^[0-9.]+" .) (get $units (regexFind "[A-Za-z]*$" .)) | int64 -}}
{{- end -}}

{{- define "tally.mailHost" -}}
{{- if eq .Values.mail.mode "bundled" -}}
{{- include "tally.name" (list . "mail") -}}
{{- else -}}
{{- required "mail.host is needed: mail.mode is external" .Values.mail.host -}}
{{- end -}}
{{- end -}}

{{- define "tally.mailPort" -}}
{{- if eq .Values.mail.mode "bundled" -}}8025{{- else -}}{{- .Values.mail.port | int -}}{{- end -}}
{{- end -}}

{{/* (list $ secret key): what a generated Secret holds already, or something new: an upgrade must not change it.
     It begins with a letter: NATS would read digits as a number. */}}
{{- define "tally.kept" -}}
{{- $root := index . 0 -}}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- if and $found (hasKey $found.data (index . 2)) -}}
{{- index $found.data (index . 2) | b64dec -}}
{{- else -}}
{{- printf "k%s" (randAlphaNum 31) -}}
{{- end -}}
{{- end -}}
