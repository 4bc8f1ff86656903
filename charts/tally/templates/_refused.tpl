{{/* What each value may be and the values together may not: a sentence ends the installation. */}}
{{- define "tally.refuse" -}}
{{- $services := include "tally.services" . | fromYaml -}}
{{- $reserved := list "jwks" "mail" "nats" "test" -}}
{{- range $name, $_ := .Values.services -}}
{{- if has $name $reserved -}}
{{- fail (printf "services.%s: %s are names of other parts of the release" $name (join ", " $reserved)) -}}
{{- end -}}
{{- end -}}
{{- range .Values.tokens.operators -}}
{{- if or (eq . "test") (hasKey $.Values.services .) -}}
{{- fail (printf "tokens.operators: %s has an account already, which would become an operator's" .) -}}
{{- end -}}
{{- end -}}
{{- range $name, $service := $services -}}
{{- with $service.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "services.%s.autoscaling: minReplicas (%d) is more than maxReplicas (%d)" $name (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.serviceMonitor.enabled .Values.monitoring.podMonitor.enabled -}}
{{- fail "monitoring: a ServiceMonitor and a PodMonitor would read every pod twice: enable one of them" -}}
{{- end -}}
{{- if and (eq .Values.mail.mode "bundled") .Values.mail.existingSecret -}}
{{- fail "mail.existingSecret: the bundled inbox takes no password, and the notifier gives none in clear: mail.mode must be external" -}}
{{- end -}}
{{- if include "tally.with" (list . "stream") -}}
{{- include "tally.refuseNats" .Values.nats -}}
{{- end -}}
{{- end -}}

{{/* Of the values of the stream. */}}
{{- define "tally.refuseNats" -}}
{{- if eq .mode "external" -}}
{{- if not (or .url .existingSecret) -}}
{{- fail "nats.url or nats.existingSecret is needed: nats.mode is external" -}}
{{- end -}}
{{- else -}}
{{- if gt (int .streamReplicas) 1 -}}
{{- fail (printf "nats.streamReplicas: the bundled server is one, and cannot keep %d copies: nats.mode must be external" (int .streamReplicas)) -}}
{{- end -}}
{{- if gt (include "tally.natsStore" . | int64) (include "tally.bytes" .bundled.size | int64) -}}
{{- fail (printf "nats.bundled.size: a stream of %d bytes (nats.streamMaxBytes), and 128Mi for consumers, do not fit in %s" (int64 .streamMaxBytes) .bundled.size) -}}
{{- end -}}
{{- end -}}
{{- end -}}
