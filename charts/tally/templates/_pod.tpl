{{/* What all of the image's containers and pods have in common: who they run as, their files, their tokens. */}}

{{/* The restricted profile of Pod Security; (list uid) is the user and group. */}}
{{- define "tally.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ first . }}
runAsGroup: {{ first . }}
fsGroup: {{ first . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tally.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The user and group of the image. */}}
{{- define "tally.uid" -}}65532{{- end -}}

{{- define "tally.tokenFolder" -}}/var/run/secrets/tally{{- end -}}

{{/* (list $ audiences): a projected token per audience, and what the cluster's public keys are read with. */}}
{{- define "tally.tokenVolume" -}}
{{- $root := first . -}}
name: tokens
projected:
  sources:
    {{- range last . }}
    - serviceAccountToken:
        audience: {{ . }}
        path: {{ . }}
        expirationSeconds: {{ $root.Values.tokens.expirationSeconds | int }}
    {{- end }}
    {{- if $root.Values.tokens.jwks }}
    - configMap:
        name: {{ include "tally.name" (list $root "jwks") }}
    {{- else }}
    - serviceAccountToken:
        path: api-server
        expirationSeconds: {{ $root.Values.tokens.expirationSeconds | int }}
    - configMap:
        name: kube-root-ca.crt
        items:
          - key: ca.crt
            path: ca.crt
    {{- end }}
{{- end -}}

{{/* (list $ name service): the volumes of a service's pod. */}}
{{- define "tally.volumes" -}}
{{- $root := index . 0 -}}
{{- $service := index . 2 -}}
- {{ include "tally.tokenVolume" (list $root $service.calls) | nindent 2 | trim }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if and $service.stream $root.Values.nats.credentialsSecret }}
- name: nats-credentials
  secret:
    secretName: {{ $root.Values.nats.credentialsSecret }}
{{- end }}
{{- end -}}

{{/* (list $ name service): where its containers find them. */}}
{{- define "tally.mounts" -}}
{{- $root := index . 0 -}}
{{- $service := index . 2 -}}
- name: tokens
  mountPath: {{ include "tally.tokenFolder" $root }}
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if and $service.stream $root.Values.nats.credentialsSecret }}
- name: nats-credentials
  mountPath: /var/run/secrets/nats
  readOnly: true
{{- end }}
{{- end -}}

{{/* (list $ name service): the container that brings the service's database to its schema. Any number may run at
     once: one holds the advisory lock, the others wait, and find nothing to do. */}}
{{- define "tally.migration" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $service := index . 2 -}}
name: migrate
image: {{ include "tally.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
command: [python, -m, services.{{ $name }}, migrate]
{{ include "tally.environment" . }}
resources:
  {{- toYaml $service.resources | nindent 2 }}
securityContext:
  {{- include "tally.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "tally.mounts" . | nindent 2 }}
{{- end -}}

{{- define "tally.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* `sleep` is the kubelet's own since 1.30; before, it is a program of the image. */}}
{{- define "tally.preStop" -}}
{{- if semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version -}}
sleep:
  seconds: {{ .Values.preStopSeconds | int }}
{{- else -}}
exec:
  command: [sleep, {{ .Values.preStopSeconds | int | quote }}]
{{- end -}}
{{- end -}}
